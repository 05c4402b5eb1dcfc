//! `--ban-file`: the banned networks, read at the start and on each SIGHUP.

use crate::base::bans::{BanList, Bans};
use std::fmt;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

/// A ban file that was read once without an error.
#[derive(Clone, Debug)]
pub struct BanFile {
    path: PathBuf,
    /// Networks at the start.
    networks: usize,
    bans: Bans,
}

impl BanFile {
    /// Reads the file, for the command line.
    ///
    /// # Errors
    /// The file cannot be read, or has a line that is not a ban. The message names the file and the line.
    pub fn open(path: &str) -> Result<Self, String> {
        let path = PathBuf::from(path);
        let list = read(&path)?;
        Ok(Self {
            path,
            networks: list.len(),
            bans: list.into(),
        })
    }

    /// The bans, for the server. A [`reload`](Self::reload) changes them.
    pub fn bans(&self) -> Bans {
        self.bans.clone()
    }

    /// The number of networks at the start.
    pub fn networks(&self) -> usize {
        self.networks
    }

    /// Reads the file again. With an error, the bans stay as they are.
    pub fn reload(&self) {
        match read(&self.path) {
            Ok(list) => {
                let count = list.len();
                self.bans.replace(list);
                log::info!("SIGHUP: bans read from {self}: {count}");
                if count == 0 {
                    log::warn!("{self} has no ban: no address is banned");
                }
            }
            Err(error) => log::error!("SIGHUP: the bans stay as they are: {error}"),
        }
    }
}

impl fmt::Display for BanFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

fn read(path: &Path) -> Result<BanList, String> {
    let error = |why: &dyn fmt::Display| format!("{}: {why}", path.display());
    // A pipe has no second reading, and its open would block the signals.
    if !fs::metadata(path).map_err(|why| error(&why))?.is_file() {
        return Err(error(&"not a regular file"));
    }
    let file = File::open(path).map_err(|why| error(&why))?;
    BanList::read(BufReader::new(file)).map_err(|why| error(&why))
}
