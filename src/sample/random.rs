//! A small seeded generator: the same seed gives the same numbers on every machine, for ever,
//! because generated clusters are compared byte by byte. Not for secrets.

/// A stream of numbers (SplitMix64: one addition and two multiplications a number, and any seed is
/// a good one).
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    /// The stream of one part of a whole: parts can be generated in any order and on any thread.
    pub(super) fn of_part(seed: u64, part: u64) -> Random {
        let mut mixed = Random(seed ^ part.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        Random(mixed.next())
    }

    /// The next number.
    #[inline]
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 where that is 0. The bias is far below what anybody could see in a
    /// sample.
    #[inline]
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        let wide = (self.next() >> 32) * u64::from(bound);
        u32::try_from(wide >> 32).expect("the high half of a product with 32 bits")
    }

    /// The same for lengths and indices.
    #[inline]
    pub(super) fn index(&mut self, bound: usize) -> usize {
        let bound = u32::try_from(bound).expect("samples index less than 4 GiB");
        usize::try_from(self.below(bound)).expect("usize holds 32 bits")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_published_numbers() {
        // From the reference implementation of SplitMix64, seed 1234567.
        let mut random = Random(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn numbers_stay_below_their_bound_and_reach_all_of_it() {
        let mut random = Random(1);
        let mut seen = [false; 10];
        for _ in 0..1000 {
            seen[random.index(10)] = true;
        }
        assert_eq!(seen, [true; 10]);
        assert_eq!(random.below(0), 0);
    }

    #[test]
    fn parts_differ_from_each_other_and_between_seeds() {
        let first = |seed, part| Random::of_part(seed, part).next();
        assert_ne!(first(1, 1), first(1, 2));
        assert_ne!(first(1, 1), first(2, 1));
        assert_eq!(first(7, 9), first(7, 9));
    }
}
