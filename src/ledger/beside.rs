//! A branch beside the server's own that still grows: the server that was replaced, or a copy, is alive.

use crate::postgres::{Lsn, TimelineId};
use crate::window::{Branch, RecoveryWindow};

/// The timeline other than `ours` whose branch reaches farther than `before`, and up to where. One that is seen for the
/// first time may have been left as it is long ago.
pub(super) fn grew_beside(
    before: &RecoveryWindow,
    now: &RecoveryWindow,
    ours: TimelineId,
) -> Option<(TimelineId, Lsn)> {
    let end = |branch: &Branch| branch.farthest().map(|span| span.end);
    now.tips().filter(|tip| tip.timeline() != ours).find_map(|tip| {
        let (is, was) = (end(tip)?, end(before.branch(tip.timeline())?)?);
        (is > was).then_some((tip.timeline(), is))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{World, timeline};

    #[test]
    fn an_old_primary_that_writes_on_is_seen_and_what_it_left_is_not() {
        let mut world = World::grow(1, 0);
        world.backup();
        world.write(8);
        let (of, left) = (world.timeline, world.lsn);
        let new = world.fork(of, left - 100);
        world.go_on(new, left - 100);
        world.write(8);
        let end_of_new = world.lsn;
        let (_, before, _) = world.window();
        world.write(8);
        let (_, alone, _) = world.window();
        assert_eq!(grew_beside(&before, &alone, timeline(new)), None, "only the server itself wrote");
        // Seen from the one that was left, the other is the one that grew.
        assert_eq!(grew_beside(&before, &alone, timeline(of)).map(|(which, _)| which), Some(timeline(new)));

        world.go_on(of, left);
        world.write(8);
        let (_, both, _) = world.window();
        let (which, to) = grew_beside(&alone, &both, timeline(new)).unwrap();
        assert_eq!(which, timeline(of));
        assert!(to > Lsn::new(left), "{to}");
        assert!(end_of_new > left);
        // It was stopped: nothing is told any more.
        let (_, after, _) = world.window();
        assert_eq!(grew_beside(&both, &after, timeline(new)), None);
    }
}
