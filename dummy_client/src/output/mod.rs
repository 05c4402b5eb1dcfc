//! A report for people and for programs.

pub mod console;
pub mod file;
pub mod html;
pub mod json;
pub mod junit;
pub mod progress;
pub mod prometheus;
