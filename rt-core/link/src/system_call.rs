//! Names of Linux system calls by number, for messages. agent-only and setup-only.
//!
//! Those that a program makes by accident: of a C library, an allocator, a log, a lock. A number
//! that is not in the table is told as it is; `ausyscall` and syscalls(2) know it.

/// Numbers differ between architectures; these are x86-64's.
#[cfg(target_arch = "x86_64")]
const NAMES: &[(u64, &str)] = &[
    (0, "read"),
    (1, "write"),
    (2, "open"),
    (3, "close"),
    (5, "fstat"),
    (7, "poll"),
    (8, "lseek"),
    (9, "mmap"),
    (10, "mprotect"),
    (11, "munmap"),
    (12, "brk"),
    (16, "ioctl"),
    (20, "writev"),
    (23, "select"),
    (24, "sched_yield"),
    (25, "mremap"),
    (28, "madvise"),
    (35, "nanosleep"),
    (39, "getpid"),
    (44, "sendto"),
    (45, "recvfrom"),
    (46, "sendmsg"),
    (47, "recvmsg"),
    (96, "gettimeofday"),
    (98, "getrusage"),
    (186, "gettid"),
    (202, "futex"),
    (228, "clock_gettime"),
    (230, "clock_nanosleep"),
    (232, "epoll_wait"),
    (257, "openat"),
    (318, "getrandom"),
];
#[cfg(not(target_arch = "x86_64"))]
const NAMES: &[(u64, &str)] = &[];

/// The name of system call `number` on this machine, or `system call N`.
pub fn name(number: u64) -> String {
    let known = NAMES.iter().find(|(known, _)| *known == number);
    known.map_or_else(
        || format!("system call {number}"),
        |(_, name)| (*name).to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_a_name() {
        assert_eq!(name(100_000), "system call 100000");
        #[cfg(target_arch = "x86_64")]
        assert_eq!(name(1), "write");
    }
}
