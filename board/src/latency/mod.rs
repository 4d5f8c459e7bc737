//! The latency lab: kairo-rt beside cyclictest, in one boot, under loads of the agent plane.
//!
//! Both run in turns with one period, priority and core; what is measured of kairo-rt is the
//! production binary's own always-on histograms. In instruction mode the guest's clocks count
//! instructions on a single CPU: no noise of the host, and the hardest case, because plane and
//! load share the core. It says nothing about hardware, so its unit is the instruction-µs. In wall
//! mode the ordinary two-CPU machine runs, and numbers are about this run of this host.

pub mod guest;
