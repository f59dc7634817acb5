//! Patterns with `*`: what stands between them, found in its order.

/// Whether `whole` is the parts in their order with anything between them: the first at its start, the last at its end, and
/// each other one where it is found first, which leaves most to those behind it. Takes no more than the product of both lengths.
pub(crate) fn in_order<T, P>(whole: &[T], parts: &[&[P]], fits: impl Fn(&[T], &[P]) -> bool) -> bool {
    let (first, last, middle) = match parts {
        [] => return false,
        [only] => return fits(whole, only),
        [first, middle @ .., last] => (first, last, middle),
    };
    let Some((start, rest)) = whole.split_at_checked(first.len()) else { return false };
    let Some(end) = rest.len().checked_sub(last.len()) else { return false };
    let (mut left, end) = rest.split_at(end);
    if !fits(start, first) || !fits(end, last) {
        return false;
    }
    for part in middle.iter().filter(|part| !part.is_empty()) {
        let Some(at) = left.windows(part.len()).position(|window| fits(window, part)) else { return false };
        left = left.get(at + part.len()..).unwrap_or_default();
    }
    true
}
