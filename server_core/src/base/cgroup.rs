//! The control groups (cgroups) of this process, of version 1 and of version 2.

use std::fs;
use std::path::{Path, PathBuf};

/// The group of this process, or a group above it: each of them limits this process.
#[derive(Clone, Debug)]
pub struct Cgroup {
    folder: PathBuf,
    is_v2: bool,
}

/// The groups of a controller (`cpu`, `memory`), the innermost first. `root` is `/`, except in tests.
#[must_use]
pub fn groups(root: &Path, controller: &str) -> Vec<Cgroup> {
    let text = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    groups_in(&text, &root.join("sys/fs/cgroup"), controller).collect()
}

/// The groups that `/proc/self/cgroup` names, and the groups above them: `0::/a/b` for version 2,
/// `5:memory:/a/b` for version 1. A container may not see the folders of some groups: a folder that does
/// not exist has no files, so it limits nothing.
fn groups_in(text: &str, mount: &Path, controller: &str) -> impl Iterator<Item = Cgroup> {
    let lines = text.lines();
    let fields = lines.filter_map(|line| line.split_once(':')?.1.split_once(':'));
    fields.flat_map(move |(controllers, path)| {
        let is_v2 = controllers.is_empty();
        let is_asked = is_v2 || controllers.split(',').any(|name| name == controller);
        let mount = mount.join(if is_v2 { "" } else { controller });
        let paths = Path::new(path.trim_start_matches('/')).ancestors();
        paths.filter(move |_| is_asked).map(move |path| Cgroup {
            folder: mount.join(path),
            is_v2,
        })
    })
}

impl Cgroup {
    /// The text of the file with this name in version 1 or in version 2.
    #[must_use]
    pub fn text(&self, v1: &str, v2: &str) -> Option<String> {
        fs::read_to_string(self.folder.join(if self.is_v2 { v2 } else { v1 })).ok()
    }

    /// The limit of the memory of this group and of all groups below it. Version 1 has a number far above
    /// the memory of any machine for no limit.
    #[must_use]
    pub fn memory_limit_bytes(&self) -> Option<u64> {
        let text = self.text("memory.limit_in_bytes", "memory.max")?;
        text.trim().parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_in_its_group_and_in_the_groups_above() {
        let folders = |text, controller| {
            let groups = groups_in(text, Path::new("/sys/fs/cgroup"), controller);
            let folder = |group: Cgroup| group.folder.display().to_string();
            let folders: Vec<String> = groups.map(folder).collect();
            folders
        };
        let v2 = "0::/a/b\n";
        let expected = ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a", "/sys/fs/cgroup/"];
        assert_eq!(folders(v2, "memory"), expected);
        let v1 = "7:cpu,memory:/a\n4:pids:/a\n";
        let expected = ["/sys/fs/cgroup/memory/a", "/sys/fs/cgroup/memory/"];
        assert_eq!(folders(v1, "memory"), expected);
        assert!(folders("", "memory").is_empty() && folders("4:pids:/a\nx\n", "cpu").is_empty());
    }
}
