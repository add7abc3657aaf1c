//! Files that always have a whole content.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// Replaces a file's content at once.
pub(super) fn put(path: &Path, content: &str) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    fs::write(&new, format!("{content}\n"))?;
    fs::rename(new, path)
}

/// Makes a device's folder and the link by which it is found.
pub(super) fn device(root: &Path, below: &str, id: &str, attributes: &[(&str, &str)]) -> io::Result<PathBuf> {
    let folder = root.join(below).join(id);
    fs::create_dir_all(folder.join("power"))?;
    for (name, content) in attributes {
        put(&folder.join(name), content)?;
    }
    let devices = root.join("sys/bus/usb/devices");
    fs::create_dir_all(&devices)?;
    std::os::unix::fs::symlink(&folder, devices.join(id))?;
    Ok(folder)
}

/// Removes both.
pub(super) fn remove(root: &Path, folder: &Path, id: &str) {
    let _ = fs::remove_file(root.join("sys/bus/usb/devices").join(id));
    let _ = fs::remove_dir_all(folder);
}
