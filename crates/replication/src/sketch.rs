//! Which items of two large sets differ, at a cost proportional to the difference: rateless
//! invertible Bloom lookup tables (Yang, Gilad, Alizadeh, "Practical Rateless Set Reconciliation",
//! SIGCOMM 2024). One side sends coded symbols until the other can peel the difference out of them:
//! about 1.35 symbols an item that differs, 1.7 for few.
//!
//! Items are 64-bit hashes, keyed by a seed that the asking side draws, so that no client can
//! choose values that collide.

use meridian_codec::{Malformed, Reader, put_signed, put_varint};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// One coded symbol: what the items that fall into it sum to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Symbol {
    sum: u64,
    check: u32,
    count: i64,
}

impl Symbol {
    fn add(&mut self, item: u64, check: u32, sign: i64) {
        self.sum ^= item;
        self.check ^= check;
        self.count += sign;
    }

    /// Holds exactly one item.
    fn is_pure(&self) -> bool {
        self.count.abs() == 1 && hash(self.sum) as u32 == self.check
    }

    fn is_empty(&self) -> bool {
        self.sum == 0 && self.check == 0 && self.count == 0
    }

    /// Appends symbols, 13 bytes and more each.
    pub fn encode_all(symbols: &[Symbol], out: &mut Vec<u8>) {
        put_varint(out, symbols.len() as u64);
        for symbol in symbols {
            out.extend_from_slice(&symbol.sum.to_le_bytes());
            out.extend_from_slice(&symbol.check.to_le_bytes());
            put_signed(out, symbol.count);
        }
    }

    /// Reads symbols that fill `bytes`.
    ///
    /// # Errors
    /// [`Malformed`] when they do not.
    pub fn decode_all(bytes: &[u8]) -> Result<Vec<Symbol>, Malformed> {
        let mut reader = Reader::new(bytes);
        let count = reader.varint()?;
        if count > reader.rest().len() as u64 / 13 {
            return Err(Malformed("more symbols than bytes"));
        }
        let mut symbols = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let (sum, check) = (reader.u64()?, reader.u32()?);
            symbols.push(Symbol { sum, check, count: reader.signed()? });
        }
        if reader.is_empty() { Ok(symbols) } else { Err(Malformed("bytes after the symbols")) }
    }
}

/// The seed of the check hash and of the mapping; items are keyed by a seed of their own.
const CHECK_SEED: u64 = 0x6d65_7269_6469_616e;

fn hash(item: u64) -> u64 {
    xxh3_64_with_seed(&item.to_le_bytes(), CHECK_SEED)
}

/// Which symbols an item falls into: all of the first few, ever fewer of the later ones.
#[derive(Clone, Copy, Debug)]
struct Mapping {
    state: u64,
    index: u64,
}

impl Mapping {
    fn new(hash: u64) -> Mapping {
        Mapping { state: hash | 1, index: 0 }
    }

    fn advance(&mut self) {
        // The paper's inverse of the distribution, with its generator.
        self.state = self.state.wrapping_mul(0xda94_2042_e4dd_58b5);
        let root = ((1u64 << 32) as f64) / (self.state as f64 + 1.0).sqrt();
        let step = (self.index as f64 + 1.5) * (root - 1.0);
        // Rounded up; without `ceil`, which is a call where the processor's is not assumed.
        let whole = step as u64;
        let whole = whole.saturating_add(u64::from((whole as f64) < step));
        self.index = self.index.saturating_add(whole);
    }
}

/// Produces the symbols of one set, as many as are asked for.
#[derive(Clone, Debug, Default)]
pub struct Coder {
    items: Vec<(u64, u32, Mapping)>,
    produced: u64,
}

impl Coder {
    /// A coder of a set.
    #[must_use]
    pub fn new(items: impl Iterator<Item = u64>) -> Coder {
        let code = |item| {
            let hash = hash(item);
            (item, hash as u32, Mapping::new(hash))
        };
        Coder { items: items.map(code).collect(), produced: 0 }
    }

    /// How many symbols have been produced.
    #[must_use]
    pub fn produced(&self) -> u64 {
        self.produced
    }

    /// The next symbols, up to number `upto`.
    pub fn extend(&mut self, upto: u64) -> Vec<Symbol> {
        let from = self.produced;
        let mut symbols = vec![Symbol::default(); upto.saturating_sub(from) as usize];
        for (item, check, mapping) in &mut self.items {
            while mapping.index < upto {
                symbols[(mapping.index - from) as usize].add(*item, *check, 1);
                mapping.advance();
            }
        }
        self.produced = self.produced.max(upto);
        symbols
    }
}

/// Items that are in one set only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// In the set whose symbols came.
    pub theirs: Vec<u64>,
    /// In the own set.
    pub ours: Vec<u64>,
}

/// Collects the other side's symbols and tries to find the difference.
#[derive(Clone, Debug)]
pub struct Decoder {
    own: Coder,
    symbols: Vec<Symbol>,
}

impl Decoder {
    /// A decoder against the own set.
    #[must_use]
    pub fn new(items: impl Iterator<Item = u64>) -> Decoder {
        Decoder { own: Coder::new(items), symbols: Vec::new() }
    }

    /// How many symbols have come.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.symbols.len() as u64
    }

    /// The next symbols of the other side have come. The difference, if they are enough.
    pub fn push(&mut self, theirs: &[Symbol]) -> Option<Difference> {
        let own = self.own.extend(self.received() + theirs.len() as u64);
        for (theirs, own) in theirs.iter().zip(own) {
            let (sum, check) = (theirs.sum ^ own.sum, theirs.check ^ own.check);
            self.symbols.push(Symbol { sum, check, count: theirs.count.wrapping_sub(own.count) });
        }
        self.peel()
    }

    fn peel(&self) -> Option<Difference> {
        let mut symbols = self.symbols.clone();
        let mut pure: Vec<usize> = (0..symbols.len()).filter(|i| symbols[*i].is_pure()).collect();
        let mut found = Difference::default();
        while let Some(index) = pure.pop() {
            let symbol = symbols[index];
            if !symbol.is_pure() {
                continue;
            }
            if found.theirs.len() + found.ours.len() > symbols.len() {
                // More items than symbols cannot be: somebody sends nonsense.
                return None;
            }
            let side = if symbol.count == 1 { &mut found.theirs } else { &mut found.ours };
            side.push(symbol.sum);
            let mut mapping = Mapping::new(hash(symbol.sum));
            while mapping.index < symbols.len() as u64 {
                let place = mapping.index as usize;
                symbols[place].add(symbol.sum, symbol.check, -symbol.count);
                if symbols[place].is_pure() {
                    pure.push(place);
                }
                mapping.advance();
            }
        }
        // The first symbol holds every item: with none given, nothing is known yet.
        (!symbols.is_empty() && symbols.iter().all(Symbol::is_empty)).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Symbols that the difference took, and the difference.
    fn reconcile(theirs: &BTreeSet<u64>, ours: &BTreeSet<u64>) -> (u64, Difference) {
        let mut coder = Coder::new(theirs.iter().copied());
        let mut decoder = Decoder::new(ours.iter().copied());
        for upto in 1.. {
            if let Some(mut found) = decoder.push(&coder.extend(upto)) {
                found.theirs.sort_unstable();
                found.ours.sort_unstable();
                return (upto, found);
            }
        }
        unreachable!("every difference is found in the end")
    }

    fn spread(range: std::ops::Range<u64>) -> impl Iterator<Item = u64> {
        range.map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    #[test]
    fn costs_what_the_difference_costs_whatever_the_sets_size() {
        for (common, differ) in [(0, 0), (1000, 0), (1000, 1), (10_000, 100), (10_000, 1000)] {
            let base: BTreeSet<u64> = spread(0..common).collect();
            let mut theirs = base.clone();
            theirs.extend(spread(1_000_000..1_000_000 + differ));
            let mut ours = base;
            ours.extend(spread(2_000_000..2_000_000 + differ));
            let (symbols, found) = reconcile(&theirs, &ours);
            let expected = |a: &BTreeSet<u64>, b| a.difference(b).copied().collect::<Vec<_>>();
            assert_eq!(found.theirs, expected(&theirs, &ours));
            assert_eq!(found.ours, expected(&ours, &theirs));
            assert!(symbols <= 2 * 2 * differ + 20, "{symbols} symbols for 2 × {differ} items");
        }
    }

    #[test]
    fn symbols_that_come_in_any_portions_are_the_same() {
        let mut whole = Coder::new(spread(0..50));
        let mut parts = Coder::new(spread(0..50));
        let all = whole.extend(40);
        let portions = [parts.extend(7), parts.extend(8), parts.extend(40)].concat();
        assert_eq!(all, portions);
        let mut bytes = Vec::new();
        Symbol::encode_all(&all, &mut bytes);
        assert_eq!(Symbol::decode_all(&bytes), Ok(all));
    }

    proptest! {
        #[test]
        fn any_two_sets(
            theirs in proptest::collection::btree_set(1u64.., 0..60),
            ours in proptest::collection::btree_set(1u64.., 0..60),
            both in proptest::collection::btree_set(1u64.., 0..60),
        ) {
            let join = |a: &BTreeSet<u64>| a.union(&both).copied().collect::<BTreeSet<u64>>();
            let (theirs, ours) = (join(&theirs), join(&ours));
            let (_, found) = reconcile(&theirs, &ours);
            prop_assert_eq!(found.theirs, theirs.difference(&ours).copied().collect::<Vec<_>>());
            prop_assert_eq!(found.ours, ours.difference(&theirs).copied().collect::<Vec<_>>());
        }

        #[test]
        fn nonsense_ends(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(symbols) = Symbol::decode_all(&bytes) {
                let _ = Decoder::new(spread(0..20)).push(&symbols);
            }
        }
    }
}
