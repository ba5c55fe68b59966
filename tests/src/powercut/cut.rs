//! Where the power is cut, and what of the unflushed writes the disk keeps. Chosen by a seed: the same seed and log
//! give the same cuts.

use std::collections::BTreeSet;
use std::ops::Range;

use fastrand::Rng;

use super::log::Entry;

/// What happens to the writes since the last flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kept {
    /// The disk keeps them all.
    All,
    /// It keeps none.
    None,
    /// It keeps each or not, by this seed: a cache writes in any order.
    Half(u64),
    /// The same, and some of those that it keeps it keeps only up to a sector within.
    Torn(u64),
}

/// One power cut: after so many requests of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cut {
    /// The requests that were completed.
    pub at: usize,
    /// What of them is on the disk.
    pub kept: Kept,
}

/// The first request after the last flush before `at`.
#[must_use]
pub fn unflushed(entries: &[Entry], at: usize) -> usize {
    entries[..at].iter().rposition(|entry| entry.flush).map_or(0, |flush| flush + 1)
}

/// Chooses `count` different cuts in `stretch` of the log, sorted by place; fewer when it has no more. A third of the places
/// is drawn among all requests; one among the spans between flushes, where a few requests switch a pointer; and one among
/// those spans that write where no journal is, which `bare` says.
#[must_use]
pub fn choose(
    entries: &[Entry],
    stretch: Range<usize>,
    bare: impl Fn(&Entry) -> bool,
    count: usize,
    rng: &mut Rng,
) -> Vec<Cut> {
    let spans = spans(entries, &stretch);
    let is_bare = |(begin, end): &(usize, usize)| entries[*begin..*end].iter().any(&bare);
    let bare: Vec<(usize, usize)> = spans.iter().copied().filter(is_bare).collect();
    let mut cuts = BTreeSet::new();
    for turn in 0..count * 20 {
        if cuts.len() == count {
            break;
        }
        let all = [(stretch.start, stretch.end)];
        let drawn_from = [&all[..], &spans, &bare][turn % 3];
        let Some(&(begin, end)) = rng.choice(drawn_from) else { continue };
        let at = rng.usize(begin..=end);
        let pending = at - unflushed(entries, at);
        // Three places and four kinds: every pair comes in twelve turns, every kind in four.
        let kept = match (pending, turn % 4) {
            // Nothing is unflushed: all kinds of cuts here are one.
            (0, _) | (_, 0) => Kept::All,
            (_, 1) => Kept::None,
            (_, 2) => Kept::Half(rng.u64(..)),
            _ => Kept::Torn(rng.u64(..)),
        };
        cuts.insert(Cut { at, kept });
    }
    cuts.into_iter().collect()
}

/// From each flush of `stretch` to the next, as the first request and the flush that ends it.
fn spans(entries: &[Entry], stretch: &Range<usize>) -> Vec<(usize, usize)> {
    let mut begin = stretch.start;
    let mut spans = Vec::new();
    for at in stretch.clone().filter(|at| entries[*at].flush) {
        spans.push((begin, at));
        begin = at + 1;
    }
    spans
}

impl Kept {
    /// How many bytes of each pending write the disk keeps.
    #[must_use]
    pub fn of(self, pending: &[Entry], sector: u64) -> Vec<u64> {
        let (mut rng, torn) = match self {
            Self::All | Self::None => (Rng::with_seed(0), false),
            Self::Half(seed) => (Rng::with_seed(seed), false),
            Self::Torn(seed) => (Rng::with_seed(seed), true),
        };
        let mut length = |entry: &Entry| match self {
            _ if entry.sure => entry.length,
            Self::All => entry.length,
            Self::None => 0,
            _ if rng.bool() => 0,
            _ if torn && rng.u8(0..4) == 0 => rng.u64(0..entry.length / sector) * sector,
            _ => entry.length,
        };
        pending.iter().map(|entry| if entry.length == 0 { 0 } else { length(entry) }).collect()
    }

    /// The word in tables.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::None => "none",
            Self::Half(_) => "half",
            Self::Torn(_) => "torn",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::powercut::log::Kind;

    fn entries() -> Vec<Entry> {
        (0..40)
            .map(|number| {
                let flush = number % 10 == 9;
                Entry {
                    offset: number * 4096,
                    length: if flush { 0 } else { 4096 },
                    kind: if flush { Kind::Nothing } else { Kind::Write(number) },
                    flush,
                    sure: false,
                }
            })
            .collect()
    }

    #[test]
    fn one_seed_one_choice_and_every_kind_is_in_it() {
        let bare = |entry: &Entry| entry.offset >= 30 * 4096 && entry.length > 0;
        let choice = |seed| choose(&entries(), 0..40, bare, 60, &mut Rng::with_seed(seed));
        assert_eq!(choice(1), choice(1));
        assert_ne!(choice(1), choice(2));
        assert_eq!(choice(1).len(), 60);
        for word in ["all", "none", "half", "torn"] {
            assert!(choice(1).iter().any(|cut| cut.kept.word() == word), "{word}");
        }
        let late = choice(1).iter().filter(|cut| cut.at >= 30).count();
        assert!(late > 25, "{late} of 60 are where it is bare, a quarter of the log");
        let within = choose(&entries(), 12..25, bare, 40, &mut Rng::with_seed(1));
        assert!(!within.is_empty() && within.iter().all(|cut| (12..=25).contains(&cut.at)));
    }

    #[test]
    fn what_is_kept() {
        let all = entries();
        assert_eq!((unflushed(&all, 0), unflushed(&all, 9), unflushed(&all, 15)), (0, 0, 10));
        let pending = &all[10..19];
        assert_eq!(Kept::All.of(pending, 512), [4096; 9]);
        assert_eq!(Kept::None.of(pending, 512), [0; 9]);
        let half = Kept::Half(3).of(pending, 512);
        assert!(half.contains(&0) && half.contains(&4096), "{half:?}");
        let torn = |seed| Kept::Torn(seed).of(pending, 512);
        let within = |length: &u64| *length % 512 == 0 && (1..4096).contains(length);
        assert!((0..9).any(|seed| torn(seed).iter().any(within)));
        let sure = [Entry { sure: true, ..all[0] }];
        assert_eq!(Kept::None.of(&sure, 512), [4096]);
    }
}
