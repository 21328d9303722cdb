//! How a worker has been doing, from the chain alone, so that every node comes to the same figure.
//!
//! A standing is basis points by which the worker's score counts in a draw. It starts full. An acknowledgement in the
//! second half of its time, and more so a timeout, lower it before stake or suspension do; a prompt one raises it again.

/// A worker nobody can complain about, basis points.
pub const FULL_STANDING: u32 = 10_000;

/// However bad it was, a worker is still drawn now and then: only so can it recover.
pub const MIN_STANDING: u32 = 1_000;

/// After an acknowledgement that took `took` of `allowed` seconds.
pub(crate) const fn after_acknowledgement(standing: u32, took: u64, allowed: u64) -> u32 {
    if took.saturating_mul(2) > allowed {
        return floor(standing / 4 * 3);
    }
    let recovered = standing.saturating_add((FULL_STANDING.saturating_sub(standing)) / 8 + 1);
    if recovered > FULL_STANDING { FULL_STANDING } else { recovered }
}

/// After a missed deadline.
pub(crate) const fn after_timeout(standing: u32) -> u32 {
    floor(standing / 2)
}

const fn floor(standing: u32) -> u32 {
    if standing < MIN_STANDING { MIN_STANDING } else { standing }
}

/// The score a draw counts: score × standing, at least 1 for a score above zero.
pub fn weighed_score(score: u64, standing: u32) -> u64 {
    let weighed = u128::from(score) * u128::from(standing) / u128::from(FULL_STANDING);
    u64::try_from(weighed).unwrap_or(u64::MAX).max(u64::from(score > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_acknowledgements_cost_draws_before_a_timeout_does() {
        assert_eq!(after_acknowledgement(FULL_STANDING, 10, 20), FULL_STANDING, "half of the time is prompt");
        let late = after_acknowledgement(FULL_STANDING, 11, 20);
        assert_eq!(late, 7_500);
        assert_eq!(after_timeout(late), 3_750);
        assert_eq!(weighed_score(5_000, late), 3_750);
        let worst = (0..20).fold(FULL_STANDING, |s, _| after_timeout(s));
        assert_eq!(worst, MIN_STANDING);
        assert_eq!(weighed_score(1, worst), 1, "never out of the draw for it");
    }

    #[test]
    fn prompt_work_brings_the_standing_back() {
        let mut standing = MIN_STANDING;
        let mut jobs = 0;
        while standing < FULL_STANDING {
            standing = after_acknowledgement(standing, 1, 20);
            jobs += 1;
        }
        assert!((20..80).contains(&jobs), "{jobs}");
    }
}
