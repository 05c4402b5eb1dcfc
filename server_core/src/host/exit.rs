//! Exit statuses of a program. 0 is success.

/// The program failed while it ran.
pub const FAILURE: u8 = 1;
/// The command line is wrong, or the machine cannot do what the command line asks for.
pub const USAGE: u8 = 2;
