//! Bots for a server in any language, described by a TOML file (`--profile`).

mod file;
mod scenario;
mod template;

pub use file::Profile;
pub use scenario::ProfileScenario;
