//! What the environment decides: the transport, the folder, the domain id. All threads of a test program share its
//! environment, so each case is another run of this program.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use common::*;
use ring::{Error, Kind, Sizes, Transport};

const CHILD: &str = "RING_TEST_CHILD";
/// The child's result, as its exit code.
const SHM: i32 = 10;
const SOCKET: i32 = 11;
const XEN: i32 = 12;
const REFUSED: i32 = 13;

#[test]
fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    std::process::exit(match Transport::from_env().map(|t| t.kind()) {
        Ok(Kind::Shm) => SHM,
        Ok(Kind::Socket) => SOCKET,
        Ok(Kind::Xen) => XEN,
        Err(Error::Config(_)) => REFUSED,
        Err(other) => panic!("{other}"),
    });
}

fn chosen(environment: &[(&str, &Path)]) -> i32 {
    let mut environment = environment.to_vec();
    environment.push((CHILD, Path::new("1")));
    again("child", &environment).wait().unwrap().code().unwrap()
}

/// The choice of shared memory, with a folder named by one more variable.
fn shm_with(name: &str, folder: &Path) -> i32 {
    chosen(&[("QREXEC_TRANSPORT", Path::new("shm")), (name, folder)])
}

fn folder(path: &Path, mode: u32) {
    fs::create_dir(path).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn the_transport_is_named_or_implied() {
    let root = tempfile::tempdir().unwrap();
    let text = Path::new;
    assert_eq!(chosen(&[("VCHAN_SOCKET_DIR", root.path())]), SOCKET);
    assert_eq!(chosen(&[("QREXEC_TRANSPORT", text("socket"))]), SOCKET);
    let both = [("QREXEC_TRANSPORT", text("shm")), ("VCHAN_SOCKET_DIR", root.path())];
    assert_eq!(chosen(&[both[0], both[1], ("QREXEC_SHM_DIR", &root.path().join("s"))]), SHM);
    for (name, value) in [("QREXEC_TRANSPORT", "shmm"), ("QREXEC_TRANSPORT", ""), ("QREXEC_TRANSPORT", "SHM")]
    {
        assert_eq!(chosen(&[(name, text(value))]), REFUSED, "{name}={value}");
    }
    for layer in ["", "libxn", "IOCTL"] {
        assert_eq!(
            chosen(&[("QREXEC_TRANSPORT", text("xen")), ("QREXEC_XEN_DEVICES", text(layer))]),
            REFUSED,
            "{layer}"
        );
    }
    for id in ["", "-1", "dom0", "4294967296"] {
        assert_eq!(chosen(&[("VCHAN_SOCKET_DIR", root.path()), ("VCHAN_DOMAIN", text(id))]), REFUSED, "{id}");
    }
}

#[test]
fn a_missing_folder_is_made_private() {
    let root = tempfile::tempdir().unwrap();
    let uid = rustix::process::geteuid().as_raw();
    let cases = [
        ("QREXEC_SHM_DIR", root.path().join("named"), root.path().join("named")),
        ("XDG_RUNTIME_DIR", root.path().to_owned(), root.path().join("qrexec-shm")),
        ("TMPDIR", root.path().to_owned(), root.path().join(format!("qrexec-shm-{uid}"))),
    ];
    for (name, value, made) in cases {
        for time in ["made", "found"] {
            assert_eq!(shm_with(name, &value), SHM, "{name} {time}");
            let meta = fs::symlink_metadata(&made).unwrap();
            assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o700, uid));
        }
    }
}

#[test]
fn a_folder_open_to_others_is_refused() {
    let root = tempfile::tempdir().unwrap();
    for mode in [0o755, 0o750, 0o701, 0o704, 0o702, 0o777, 0o1777] {
        let path = root.path().join(format!("{mode:o}"));
        folder(&path, mode);
        assert_eq!(shm_with("QREXEC_SHM_DIR", &path), REFUSED, "{mode:o}");
    }
    let (good, link, file) = (root.path().join("good"), root.path().join("link"), root.path().join("file"));
    folder(&good, 0o700);
    symlink(&good, &link).unwrap();
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o700)).unwrap();
    assert_eq!(shm_with("QREXEC_SHM_DIR", &good), SHM);
    assert_eq!(shm_with("QREXEC_SHM_DIR", &link), REFUSED);
    assert_eq!(shm_with("QREXEC_SHM_DIR", &file), REFUSED);
}

/// If a well-known name were accepted from another user, that user could join the calls of this one, even root's.
#[test]
fn a_default_folder_of_somebody_else_is_refused() {
    if !rustix::process::geteuid().is_root() {
        return; // only root can give a folder away
    }
    let root = tempfile::tempdir().unwrap();
    for name in ["qrexec-shm", "qrexec-shm-0", "named"] {
        folder(&root.path().join(name), 0o700);
        chown(root.path().join(name), Some(54_321), None).unwrap();
    }
    assert_eq!(shm_with("XDG_RUNTIME_DIR", root.path()), REFUSED);
    assert_eq!(shm_with("TMPDIR", root.path()), REFUSED);
    // Root may name the folder of another user's lab on purpose.
    assert_eq!(shm_with("QREXEC_SHM_DIR", &root.path().join("named")), SHM);
}

/// The owner of the folder around this one could put another folder in its place.
#[test]
fn a_runtime_folder_of_somebody_else_is_refused() {
    if !rustix::process::geteuid().is_root() {
        return; // only root can give a folder away
    }
    let root = tempfile::tempdir().unwrap();
    let runtime = root.path().join("user");
    folder(&runtime, 0o700);
    assert_eq!(shm_with("XDG_RUNTIME_DIR", &runtime), SHM);
    fs::remove_dir(runtime.join("qrexec-shm")).unwrap();
    chown(&runtime, Some(54_321), None).unwrap();
    assert_eq!(shm_with("XDG_RUNTIME_DIR", &runtime), REFUSED);
    assert_eq!(fs::read_dir(&runtime).unwrap().count(), 0, "nothing was made there");
}

const COUNT: &str = "RING_TEST_COUNT";

/// In a process of its own, in which no other test opens descriptors.
#[test]
fn count_descriptors() {
    if std::env::var_os(COUNT).is_none() {
        return;
    }
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    for kind in [Kind::Shm, Kind::Socket] {
        let bed = Bed::new(kind);
        for port in 0..20 {
            drop(bed.connect(port));
            let mut early = bed.connect(port);
            let _ = early.poll().unwrap();
            let listener = bed.listen(port, Sizes::both(4096));
            let _ = early.poll().unwrap();
            drop(listener);
            let _ = early.poll();
            drop(early);
            let (mut server, client) = bed.meet(port, Sizes::both(4096));
            drop(client);
            wait_closed(&mut server);
        }
    }
    assert_eq!(open(), before, "descriptors were left open");
    std::process::exit(SHM);
}

#[test]
fn no_descriptor_stays_open() {
    assert_eq!(again("count_descriptors", &[(COUNT, Path::new("1"))]).wait().unwrap().code(), Some(SHM));
}
