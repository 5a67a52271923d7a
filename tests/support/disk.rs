//! A disk that a test may fill.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system of its own, if that is allowed here.
pub(crate) struct Mounted<'a>(&'a Path);

impl Mounted<'_> {
    pub(crate) fn new<'a>(path: &'a Path, options: &str) -> Option<Mounted<'a>> {
        let mut mount = Command::new("mount");
        let mount = mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(path).output();
        if mount.is_ok_and(|output| output.status.success()) {
            return Some(Mounted(path));
        }
        eprintln!("skipped: a tmpfs cannot be mounted here (run as root, with CAP_SYS_ADMIN)");
        None
    }

    pub(crate) fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        let status = Command::new("mount").args(["-o", &options]).arg(self.0).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // The directory goes with the test; a mount that stays would stay for good.
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

/// Takes all of a file system but a megabyte, until the file is removed.
pub(crate) fn fill(root: &Path, bytes: u64) -> PathBuf {
    let path = root.join("filler");
    let filler = fs::File::create(&path).unwrap();
    rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), 0, bytes - (1 << 20))
        .unwrap();
    path
}
