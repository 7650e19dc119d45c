//! Counting: INCR and its kin, on strings and on hash fields.

use meridian_clock::{Origin, Time};
use meridian_crdt::{Action, Amount, AmountError, Cell, Element};

use crate::stage::Stage;

/// Adds `delta` to the counter in `element` and returns the new value.
///
/// # Errors
/// [`AmountError::NotANumber`] when the element holds other text, [`AmountError::Overflow`] when
/// the result does not fit.
pub fn increment(
    stage: &mut Stage,
    key: &[u8],
    element: Element<'_>,
    delta: Amount,
    now: Time,
) -> Result<Amount, AmountError> {
    let me = stage.me();
    let object = stage.object(key);
    let dead_until = object.map_or(Time::ZERO, |o| match element {
        Element::String => o.string_dead_until(now),
        Element::Field(_) | Element::Member(_) => o.dead_until(now),
    });
    let cell = object.and_then(|o| o.cell(element));
    let current = cell.map_or(Ok(Amount::ZERO), |c| current(c, dead_until))?;
    let next = current.checked_add(delta).ok_or(AmountError::Overflow)?;
    match own_row(cell, me, dead_until, delta) {
        Some((birth, sum)) => {
            stage.write_increment(key, element, birth, sum);
        }
        None => {
            // The row cannot hold the sum although the value can: write the value instead.
            let mut text = Vec::new();
            next.write(&mut text);
            let ttl = object.and_then(|o| o.deadline(now)).unwrap_or(Time::MAX);
            stage.write(key, Action::Assign { element, value: &text, ttl });
        }
    }
    Ok(next)
}

/// What the counter shows, exactly.
fn current(cell: &Cell, dead_until: Time) -> Result<Amount, AmountError> {
    match cell.winner().filter(|r| r.dot.time > dead_until) {
        None => Ok(cell.rows_total(dead_until)),
        Some(reg) => Ok(cell.total(Amount::parse(&reg.value)?, dead_until)),
    }
}

/// This region's row to continue (none: a new one) and its new sum; `None` if it overflows.
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
