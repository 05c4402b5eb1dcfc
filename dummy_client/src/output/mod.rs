//! A report for people and for programs.

pub mod html;
