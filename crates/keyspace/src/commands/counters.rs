//! Counters: increments of all regions sum.

use meridian_crdt::{Amount, Element, Kind};

use super::{
    NOT_AN_INTEGER, WRONG_TYPE,
    numbers::{self, NotAnAmount},
    spec::{ONE_KEY, Spec},
};
use crate::{
    dispatch::Call,
    increment::{CountError, Numbers, increment},
};

pub(super) static TABLE: &[Spec] = &[
    Spec::write("incr", 2, ONE_KEY, incr),
    Spec::write("decr", 2, ONE_KEY, decr),
    Spec::write("incrby", 3, ONE_KEY, incrby),
    Spec::write("decrby", 3, ONE_KEY, decrby),
    Spec::write("incrbyfloat", 3, ONE_KEY, incrbyfloat),
];

const OVERFLOW: &str = "ERR increment or decrement would overflow";
const NOT_FINITE: &str = "ERR increment would produce NaN or Infinity";
const NOT_A_FLOAT: &str = "ERR value is not a valid float";

fn incr(call: &mut Call<'_>) {
    count(call, 1);
}

fn decr(call: &mut Call<'_>) {
    count(call, -1);
}

fn incrby(call: &mut Call<'_>) {
    match numbers::integer(call.args[2]) {
        Ok(delta) => count(call, delta),
        Err(error) => call.reply.error(error),
    }
}

fn decrby(call: &mut Call<'_>) {
    match numbers::integer(call.args[2]) {
        Ok(delta) => match delta.checked_neg() {
            Some(delta) => count(call, delta),
            None => call.reply.error("ERR decrement would overflow"),
        },
        Err(error) => call.reply.error(error),
    }
}

fn count(call: &mut Call<'_>, delta: i64) {
    count_in(call, Element::String, delta, NOT_AN_INTEGER);
}

/// Adds an integer to the counter in an element of the key `args[1]` and replies the sum;
/// `not_a_number` is the error for an element that holds other text.
pub(super) fn count_in(
    call: &mut Call<'_>,
    element: Element<'_>,
    delta: i64,
    not_a_number: &'static str,
) {
    let (key, delta) = (call.args[1], Amount::from_int(delta));
    match increment(call.stage, key, element, delta, Numbers::Integers, call.now) {
        Ok(sum) => call.reply.integer(sum.whole()),
        Err(CountError::WrongType) => call.reply.error(WRONG_TYPE),
        Err(CountError::NotANumber) => call.reply.error(not_a_number),
        Err(CountError::Overflow) => call.reply.error(OVERFLOW),
    }
}

fn incrbyfloat(call: &mut Call<'_>) {
    // Redis looks at the key before it looks at the argument.
    if call.visible(call.args[1]).is_some_and(|kind| kind != Kind::String) {
        return call.reply.error(WRONG_TYPE);
    }
    match numbers::amount(call.args[2]) {
        Ok(delta) => count_decimal(call, Element::String, delta, NOT_A_FLOAT),
        Err(NotAnAmount::Text) => call.reply.error(NOT_A_FLOAT),
        Err(NotAnAmount::Infinite) => call.reply.error(NOT_FINITE),
    }
}

/// Adds a decimal to the counter in an element of the key `args[1]` and replies the sum.
pub(super) fn count_decimal(
    call: &mut Call<'_>,
    element: Element<'_>,
    delta: Amount,
    not_a_number: &'static str,
) {
    match increment(call.stage, call.args[1], element, delta, Numbers::Decimals, call.now) {
        Ok(sum) => {
            let mut text = Vec::new();
            sum.write(&mut text);
            call.reply.bulk(&text);
        }
        Err(CountError::WrongType) => call.reply.error(WRONG_TYPE),
        Err(CountError::NotANumber) => call.reply.error(not_a_number),
        Err(CountError::Overflow) => call.reply.error(NOT_FINITE),
    }
}
