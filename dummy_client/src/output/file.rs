//! Result files. A path is checked before the run, and a file is complete or as it was before.

use crate::error::Error;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A place for one result.
///
/// A regular file is replaced: the text goes to a file beside it, which is renamed when it is complete. A full
/// disk or a kill leaves the old file as it was. Symbolic links are followed; permissions are kept. Devices,
/// pipes, and files in a folder that cannot be written are written in place.
#[derive(Debug)]
pub struct ResultFile {
    place: String,
    target: Target,
}

#[derive(Debug)]
enum Target {
    Replace {
        /// Without symbolic links.
        path: PathBuf,
        /// Of the file that is replaced.
        permissions: Option<Permissions>,
    },
    InPlace {
        file: File,
        /// Of a regular file: the folder of the file cannot be written.
        path: Option<PathBuf>,
    },
}

/// A file beside the target. Dropping it removes the file.
struct Temporary {
    path: PathBuf,
    file: File,
    is_renamed: bool,
}

/// More links than this are a loop, as in the kernel.
const MAX_LINKS: usize = 40;

impl ResultFile {
    /// Checks a path: a file can be created there, or the file there can be written. Nothing is changed.
    ///
    /// # Errors
    /// The path cannot be written. Exit status 2.
    pub fn open(place: &str) -> Result<Self, Error> {
        match open_target(Path::new(place)) {
            Ok(target) => Ok(Self {
                place: place.into(),
                target,
            }),
            Err(error) => Err(Error::usage(cannot_write(place, &error))),
        }
    }

    /// The path as it was given.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Whether both are one regular file. Two results may go to one device or pipe.
    #[must_use]
    pub fn is_same_file(&self, other: &Self) -> bool {
        self.path().is_some() && self.path() == other.path()
    }

    fn path(&self) -> Option<&Path> {
        match &self.target {
            Target::Replace { path, .. } => Some(path),
            Target::InPlace { path, .. } => path.as_deref(),
        }
    }

    /// Writes the text.
    ///
    /// # Errors
    /// The text cannot be written; a regular file is as it was before. A pipe without a reader is not an
    /// error. Exit status 1.
    pub fn write(self, text: &str) -> Result<(), Error> {
        let written = match self.target {
            Target::Replace { path, permissions } => replace(&path, permissions, text),
            Target::InPlace { file, path } => write_in_place(file, path.is_some(), text),
        };
        check_written(written, &self.place)
    }
}

/// Writes a result to standard output.
///
/// # Errors
/// Standard output cannot be written. A closed pipe is not an error.
pub fn print(text: &str) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes());
    check_written(written.and_then(|()| stdout.flush()), "standard output")
}

fn check_written(result: io::Result<()>, place: &str) -> Result<(), Error> {
    match result {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::failure(cannot_write(place, &error)))
        }
        _ => Ok(()),
    }
}

fn cannot_write(place: &str, error: &io::Error) -> String {
    format!(
        "cannot write to {}: {error}",
        server_core::text::one_line(place)
    )
}

/// The names of open files. `/dev/shm` is a folder like any other.
const DESCRIPTORS: [&str; 4] = ["/dev/fd", "/dev/stdout", "/dev/stderr", "/proc"];

fn open_target(place: &Path) -> io::Result<Target> {
    let path = without_links(place)?;
    let metadata = match fs::metadata(&path) {
        Ok(metadata) => Some(metadata),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let is_descriptor = DESCRIPTORS.iter().any(|root| place.starts_with(root));
    match metadata {
        Some(metadata) if metadata.is_dir() => Err(ErrorKind::IsADirectory.into()),
        // An open file of the caller: it may have text already, of this program for example.
        Some(_) if is_descriptor => {
            let file = OpenOptions::new().append(true).open(place)?;
            Ok(Target::InPlace { file, path: None })
        }
        Some(metadata) if metadata.is_file() => {
            let file = OpenOptions::new().write(true).open(&path)?;
            match Temporary::beside(&path) {
                Ok(_) => Ok(Target::Replace {
                    path,
                    permissions: Some(metadata.permissions()),
                }),
                Err(_) => Ok(Target::InPlace {
                    file,
                    path: Some(path),
                }),
            }
        }
        Some(_) => {
            let file = OpenOptions::new().write(true).open(&path)?;
            Ok(Target::InPlace { file, path: None })
        }
        None => {
            // The name itself is checked, too: it may be too long.
            drop(
                OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .open(&path)?,
            );
            fs::remove_file(&path)?;
            Temporary::beside(&path)?;
            Ok(Target::Replace {
                path,
                permissions: None,
            })
        }
    }
}

/// The path behind symbolic links; the last part need not exist.
fn without_links(place: &Path) -> io::Result<PathBuf> {
    let mut path = place.to_path_buf();
    for _ in 0..MAX_LINKS {
        let Some(name) = path.file_name().map(ToOwned::to_owned) else {
            return fs::canonicalize(&path);
        };
        path = fs::canonicalize(folder_of(&path))?.join(name);
        match fs::read_link(&path) {
            Ok(target) => path = folder_of(&path).join(target),
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::other("too many levels of symbolic links"))
}

fn folder_of(path: &Path) -> &Path {
    let parent = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

fn replace(path: &Path, permissions: Option<Permissions>, text: &str) -> io::Result<()> {
    let mut temporary = Temporary::beside(path)?;
    temporary.file.write_all(text.as_bytes())?;
    if let Some(permissions) = permissions {
        temporary.file.set_permissions(permissions)?;
    }
    // A network file system may report a full disk or quota only here.
    temporary.file.sync_all()?;
    match fs::rename(&temporary.path, path) {
        Ok(()) => {
            temporary.is_renamed = true;
            Ok(())
        }
        // A file that is a mount point cannot be replaced. Its text is known to fit on this disk.
        Err(error) if error.kind() == ErrorKind::ResourceBusy => {
            write_in_place(OpenOptions::new().write(true).open(path)?, true, text)
        }
        Err(error) => Err(error),
    }
}

fn write_in_place(mut file: File, is_regular: bool, text: &str) -> io::Result<()> {
    if is_regular {
        file.set_len(0)?;
    }
    file.write_all(text.as_bytes())?;
    // Pipes and devices have no disk to wait for.
    if is_regular { file.sync_all() } else { Ok(()) }
}

impl Temporary {
    fn beside(path: &Path) -> io::Result<Self> {
        /// A killed process with the same id may have left files.
        const TRIES: u32 = 100;
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mut result = Err(ErrorKind::AlreadyExists.into());
        for _ in 0..TRIES {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!(".dummy_client-{}-{number}.tmp", std::process::id());
            let path = folder_of(path).join(name);
            let opened = OpenOptions::new().write(true).create_new(true).open(&path);
            let is_taken =
                matches!(&opened, Err(error) if error.kind() == ErrorKind::AlreadyExists);
            result = opened.map(|file| Self {
                path,
                file,
                is_renamed: false,
            });
            if !is_taken {
                break;
            }
        }
        result
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.is_renamed {
            // If the file cannot be removed, nothing depends on it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An empty folder, which the drop removes.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("dummy_client_file_{name}_{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn path(&self, name: &str) -> String {
            self.0.join(name).to_str().unwrap().into()
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).unwrap();
            let mut names: Vec<_> = entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn the_old_file_stays_until_the_new_one_is_complete() {
        let folder = Folder::new("replace");
        let place = folder.path("r.html");
        fs::write(&place, "the report of yesterday").unwrap();
        let file = ResultFile::open(&place).unwrap();
        assert_eq!(folder.names(), ["r.html"], "the check leaves nothing");
        assert_eq!(
            fs::read_to_string(&place).unwrap(),
            "the report of yesterday"
        );
        file.write("new").unwrap();
        assert_eq!(fs::read_to_string(&place).unwrap(), "new");
        assert_eq!(folder.names(), ["r.html"]);
    }

    #[test]
    fn a_new_path_holds_nothing_before_the_result() {
        let folder = Folder::new("new");
        let place = folder.path("r.json");
        let file = ResultFile::open(&place).unwrap();
        assert!(folder.names().is_empty());
        file.write("x").unwrap();
        assert_eq!(folder.names(), ["r.json"]);
    }

    /// `RLIMIT_FSIZE` is the disk that is full after 4 KiB.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_leaves_the_old_file_and_no_temporary_one() {
        if let Some(place) = std::env::var_os("DUMMY_CLIENT_TEST_FULL_DISK") {
            let file = ResultFile::open(place.to_str().unwrap()).unwrap();
            let error = file.write(&"x".repeat(100_000)).unwrap_err();
            assert_eq!(error.exit_status, 1);
            assert!(error.message.starts_with("cannot write to "), "{error}");
            return;
        }
        let folder = Folder::new("full");
        let place = folder.path("r.html");
        fs::write(&place, "the report of yesterday").unwrap();
        // Files end at 4 KiB; without a handler of SIGXFSZ the write fails with EFBIG.
        let script = r#"trap '' XFSZ; ulimit -f 8; exec "$0" --exact --nocapture "$1""#;
        let test = "output::file::tests::a_full_disk_leaves_the_old_file_and_no_temporary_one";
        let output = std::process::Command::new("sh")
            .args(["-c", script])
            .arg(std::env::current_exe().unwrap())
            .arg(test)
            .env("DUMMY_CLIENT_TEST_FULL_DISK", &place)
            .output()
            .unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{output:?}");
        assert!(stdout.contains("1 passed"), "{stdout}");
        let old = fs::read_to_string(&place).unwrap();
        assert_eq!(old, "the report of yesterday");
        assert_eq!(folder.names(), ["r.html"]);
    }

    #[test]
    fn unwritable_paths_are_bad_usage_before_the_run() {
        let folder = Folder::new("unwritable");
        let long = folder.path(&"x".repeat(300));
        let below_file = folder.path("file/x");
        fs::write(folder.path("file"), "").unwrap();
        let folder_itself = folder.path("");
        for place in [
            "/nonexistent/folder/x",
            "",
            &long,
            &below_file,
            &folder_itself,
        ] {
            let error = ResultFile::open(place).unwrap_err();
            assert_eq!(error.exit_status, 2, "{place}");
            let line = format!("cannot write to {place}: ");
            assert!(error.message.starts_with(&line), "{error}");
        }
        assert_eq!(folder.names(), ["file"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_permissions_are_kept() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = Folder::new("links");
        fs::write(folder.path("real"), "old").unwrap();
        let mode = |name: &str| {
            fs::metadata(folder.path(name))
                .unwrap()
                .permissions()
                .mode()
        };
        fs::set_permissions(folder.path("real"), Permissions::from_mode(0o640)).unwrap();
        symlink("real", folder.path("link")).unwrap();
        symlink("not_there_yet", folder.path("dangling")).unwrap();
        symlink("loop", folder.path("loop")).unwrap();
        let link = ResultFile::open(&folder.path("link")).unwrap();
        let real = ResultFile::open(&folder.path("real")).unwrap();
        let dangling = ResultFile::open(&folder.path("dangling")).unwrap();
        assert!(link.is_same_file(&real) && !link.is_same_file(&dangling));
        assert!(ResultFile::open(&folder.path("loop")).is_err());
        link.write("new").unwrap();
        dangling.write("new too").unwrap();
        let read = |name: &str| fs::read_to_string(folder.path(name)).unwrap();
        assert_eq!(
            (read("real"), read("not_there_yet")),
            ("new".into(), "new too".into())
        );
        assert!(
            fs::symlink_metadata(folder.path("link"))
                .unwrap()
                .is_symlink()
        );
        assert_eq!(mode("real") & 0o777, 0o640);
    }

    #[cfg(target_os = "linux")]
    /// A file in the memory file system of Linux, below `/dev`, is a file like any other.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_below_dev_is_replaced() {
        let place = format!("/dev/shm/dummy_client_file_{}", std::process::id());
        if fs::write(&place, "the long report of yesterday").is_err() {
            return; // This system has no such file system.
        }
        ResultFile::open(&place).unwrap().write("new").unwrap();
        let text = fs::read_to_string(&place);
        fs::remove_file(&place).unwrap();
        assert_eq!(text.unwrap(), "new");
    }

    #[test]
    fn devices_are_written_in_place() {
        let null = ResultFile::open("/dev/null").unwrap();
        assert!(!null.is_same_file(&ResultFile::open("/dev/null").unwrap()));
        null.write("x").unwrap();
        let error = ResultFile::open("/dev/full")
            .unwrap()
            .write("x")
            .unwrap_err();
        assert_eq!(error.exit_status, 1);
        assert!(
            error.message.starts_with("cannot write to /dev/full: "),
            "{error}"
        );
    }
}
