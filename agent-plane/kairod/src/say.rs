//! A line on standard error, for the supervisor's log, where it may go nowhere: `eprintln!` panics
//! when its file is full, and that would end kairod because of a disk.

/// Like `eprintln!`, and never fails.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        // There is nobody left to tell that this failed.
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}
