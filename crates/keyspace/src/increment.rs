//! Counting: INCR and its kin, on strings and on hash fields.

use meridian_clock::{Origin, Time};
use meridian_crdt::{Action, Amount, AmountError, Cell, Element, Kind, Object};
use meridian_resp::number;

use crate::stage::Stage;

/// What the counter may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// Integers in Redis's canonical form: INCR, HINCRBY.
    Integers,
    /// Any decimal number: INCRBYFLOAT, HINCRBYFLOAT.
    Decimals,
}

/// Why nothing was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountError {
    /// The key shows another type.
    WrongType,
    /// The element holds text that is no such number.
    NotANumber,
    /// The result does not fit.
    Overflow,
}

/// Adds `delta` to the counter in `element` and returns the new value, in one look-up.
///
/// # Errors
/// [`CountError`]; nothing has been written then.
pub fn increment(
    stage: &mut Stage,
    key: &[u8],
    element: Element<'_>,
    delta: Amount,
    numbers: Numbers,
    now: Time,
) -> Result<Amount, CountError> {
    let me = stage.me();
    let mut result = Err(CountError::NotANumber);
    let mut text = Vec::new();
    let (out, buffer) = (&mut result, &mut text);
    stage.decide(key, move |object, dot| {
        let step = match step(object, element, delta, numbers, now, me) {
            Ok(step) => step,
            Err(error) => {
                *out = Err(error);
                return None;
            }
        };
        *out = Ok(step.next);
        let Some((birth, sum)) = step.row else {
            // The row cannot hold the sum although the value can: write the value instead.
            step.next.write(buffer);
            let ttl = object.deadline(now).unwrap_or(Time::MAX);
            return Some(Action::Assign { element, value: &*buffer, ttl });
        };
        Some(Action::Incr { element, birth: birth.unwrap_or(dot.time), sum })
    });
    result
}

/// What an increment comes to.
struct Step {
    next: Amount,
    /// This region's row to continue (its birth; none: a new one) and its new sum. None when the
    /// sum overflows.
    row: Option<(Option<Time>, Amount)>,
}

fn step(
    object: &Object,
    element: Element<'_>,
    delta: Amount,
    numbers: Numbers,
    now: Time,
    me: Origin,
) -> Result<Step, CountError> {
    let (kind, dead_until) = match element {
        Element::String => (Kind::String, object.string_dead_until(now)),
        Element::Field(_) => (Kind::Hash, object.dead_until(now)),
        Element::Member(_) => (Kind::Set, object.dead_until(now)),
    };
    if object.visible(now).is_some_and(|seen| seen != kind) {
        return Err(CountError::WrongType);
    }
    let cell = object.cell(element);
    let current = cell.map_or(Ok(Amount::ZERO), |c| current(c, dead_until, numbers))?;
    let next = current.checked_add(delta).ok_or(CountError::Overflow)?;
    Ok(Step { next, row: own_row(cell, me, dead_until, delta) })
}

/// What the counter shows, exactly.
fn current(cell: &Cell, dead_until: Time, numbers: Numbers) -> Result<Amount, CountError> {
    let winner = cell.winner().filter(|r| r.dot.time > dead_until);
    let start = match (winner, numbers) {
        (None, _) => Amount::ZERO,
        (Some(reg), Numbers::Integers) => {
            // Beside increments the text may be any number; what shows is the sum.
            match number::parse_integer(&reg.value) {
                Some(value) => Amount::from_int(value),
                None if cell.has_live_rows(dead_until) => parse_decimal(&reg.value)?,
                None => return Err(CountError::NotANumber),
            }
        }
        (Some(reg), Numbers::Decimals) => parse_decimal(&reg.value)?,
    };
    let total = cell.total(start, dead_until);
    if numbers == Numbers::Integers && total.as_int().is_none() {
        return Err(CountError::NotANumber);
    }
    Ok(total)
}

fn parse_decimal(text: &[u8]) -> Result<Amount, CountError> {
    Amount::parse(text).map_err(|error| match error {
        AmountError::NotANumber => CountError::NotANumber,
        AmountError::Overflow => CountError::Overflow,
    })
}

fn own_row(
    cell: Option<&Cell>,
    me: Origin,
    dead_until: Time,
    delta: Amount,
) -> Option<(Option<Time>, Amount)> {
    let row = cell.and_then(|c| c.row(me)).filter(|r| r.is_live() && r.last > dead_until);
    match row {
        None => Some((None, delta)),
        Some(row) => row.sum.checked_add(delta).map(|sum| (Some(row.birth), sum)),
    }
}
