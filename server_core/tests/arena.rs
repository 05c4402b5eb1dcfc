//! The example `arena` in virtual time.

#[path = "../examples/arena/game.rs"]
#[allow(dead_code, reason = "the program uses the rest")]
mod game;
#[path = "../examples/arena/tests.rs"]
mod tests;
