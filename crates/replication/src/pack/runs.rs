//! Columns of numbers that stay the same for long.

use meridian_codec::{Malformed, Reader, put_varint};

/// Numbers that stay the same for long: twice the number, and one more if how often it is repeated
/// follows.
#[derive(Default)]
pub(super) struct Runs {
    out: Vec<u8>,
    pub(super) number: u64,
    run: u64,
}

impl Runs {
    /// Numbers lie below 2⁶³: they are lengths, or small.
    pub(super) fn push(&mut self, number: u64) {
        if self.run > 0 && self.number != number {
            self.flush();
        }
        self.number = number;
        self.run += 1;
    }

    fn flush(&mut self) {
        if self.run > 0 {
            put_varint(&mut self.out, self.number << 1 | u64::from(self.run > 1));
        }
        if self.run > 1 {
            put_varint(&mut self.out, self.run - 2);
        }
        self.run = 0;
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.flush();
        self.out
    }
}

/// Reads what [`Runs`] wrote.
pub(super) struct RunReader<'a> {
    reader: Reader<'a>,
    number: u64,
    run: u64,
}

impl<'a> RunReader<'a> {
    pub(super) fn new(reader: Reader<'a>) -> RunReader<'a> {
        RunReader { reader, number: 0, run: 0 }
    }

    pub(super) fn next(&mut self) -> Result<u64, Malformed> {
        if self.run > 0 {
            self.run -= 1;
            return Ok(self.number);
        }
        let number = self.reader.varint()?;
        self.number = number >> 1;
        if number & 1 == 1 {
            self.run = self.reader.varint()?.checked_add(1).ok_or(Malformed("endless run"))?;
        }
        Ok(self.number)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.run == 0 && self.reader.is_empty()
    }
}
