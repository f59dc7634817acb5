//! [`Keeping`]: which manifests of a repository keep which others.
//!
//! An index keeps what it lists. A manifest keeps its referrers, which go with it: those whose `subject` it is.

use std::collections::{HashMap, HashSet};

use crate::oci::Digest;

/// Which manifests keep which others.
#[derive(Debug, Default)]
pub(super) struct Keeping(HashMap<Digest, Vec<Digest>>);

impl Keeping {
    /// One keeps the other.
    pub(super) fn add(&mut self, keeper: Digest, kept: Digest) {
        if keeper != kept {
            self.0.entry(keeper).or_default().push(kept);
        }
    }

    fn of(&self, keeper: &Digest) -> &[Digest] {
        self.0.get(keeper).map(Vec::as_slice).unwrap_or_default()
    }

    /// These, and all that they keep.
    pub(super) fn kept_by(&self, roots: impl IntoIterator<Item = Digest>) -> HashSet<Digest> {
        let mut kept = HashSet::new();
        let mut next: Vec<Digest> = roots.into_iter().collect();
        while let Some(digest) = next.pop() {
            if kept.insert(digest.clone()) {
                next.extend(self.of(&digest).iter().filter(|other| !kept.contains(*other)).cloned());
            }
        }
        kept
    }

    /// Those of a set that nothing else in it keeps, in order; all, if each is kept by another one.
    pub(super) fn first<T>(&self, of: &HashMap<Digest, T>) -> Vec<Digest> {
        let kept: HashSet<&Digest> = of.keys().flat_map(|keeper| self.of(keeper)).collect();
        let mut first: Vec<Digest> = of.keys().filter(|digest| !kept.contains(digest)).cloned().collect();
        if first.is_empty() {
            first = of.keys().cloned().collect();
        }
        first.sort_unstable();
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    fn digest(number: u8) -> Digest {
        Digest::of(Algorithm::Sha256, &[number])
    }

    fn keeping(pairs: &[(u8, u8)]) -> Keeping {
        let mut keeping = Keeping::default();
        for (keeper, kept) in pairs {
            keeping.add(digest(*keeper), digest(*kept));
        }
        keeping
    }

    #[test]
    fn what_is_kept_keeps_others_too() {
        let keeping = keeping(&[(1, 2), (2, 3), (4, 3), (3, 1), (5, 6)]);
        assert_eq!(keeping.kept_by([digest(1)]), HashSet::from([1, 2, 3].map(digest)));
        assert_eq!(keeping.kept_by([digest(5), digest(7)]), HashSet::from([5, 6, 7].map(digest)));
    }

    #[test]
    fn whoever_keeps_others_goes_before_them_and_those_in_a_ring_at_once() {
        let keeping = keeping(&[(1, 2), (2, 3), (4, 3), (5, 6), (6, 5), (7, 7)]);
        let of = |numbers: &[u8]| {
            numbers.iter().map(|number| (digest(*number), *number)).collect::<HashMap<_, _>>()
        };
        let sorted = |numbers: &[u8]| {
            let mut digests: Vec<_> = numbers.iter().map(|number| digest(*number)).collect();
            digests.sort_unstable();
            digests
        };
        assert_eq!(keeping.first(&of(&[1, 2, 3, 4])), sorted(&[1, 4]));
        assert_eq!(keeping.first(&of(&[2, 3])), sorted(&[2]));
        assert_eq!(keeping.first(&of(&[5, 6])), sorted(&[5, 6]));
        assert_eq!(keeping.first(&of(&[7])), sorted(&[7]));
        assert!(keeping.first(&of(&[])).is_empty());
    }
}
