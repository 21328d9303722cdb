//! Keys stay off the disk: a process that holds some leaves no core dump when it crashes.

use std::io;

/// Forbids core dumps of this process for good: the limit on their size is 0 (also for what it starts), and on Linux the
/// process is not dumpable, which holds where dumps are piped to a program, and keeps other processes of the same user
/// from reading its memory. Call it first of all.
///
/// # Errors
/// The system's; a process that cannot do this should not read keys.
pub fn forbid_core_dumps() -> io::Result<()> {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, setrlimit};
        setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    }
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    }
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use rustix::process::{DumpableBehavior, Resource, dumpable_behavior, getrlimit};

    #[test]
    fn limit_and_attribute_are_off_and_stay_off() {
        forbid_core_dumps().unwrap();
        let limit = getrlimit(Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        forbid_core_dumps().unwrap();
    }
}
