//! The default guest's user space: a static busybox and a handful of text files, as a cpio.
//!
//! busybox is its own init: it runs `rcS` once, keeps a shell on the console, and turns
//! `poweroff` and `reboot` typed there into the kernel's system calls. The shell is started by
//! `cttyhack` so that it has a controlling terminal: Ctrl-C and job control work.

use crate::cpio::Writer;

const INITTAB: &str = "\
::sysinit:/etc/init.d/rcS
::respawn:/bin/cttyhack /bin/sh -l
::ctrlaltdel:/sbin/reboot
::shutdown:/bin/sync
";

const RCS: &str = "\
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mkdir -p /dev/pts
/bin/busybox mount -t devpts devpts /dev/pts
/bin/busybox mount -t tmpfs tmp /tmp
/bin/busybox --install -s
hostname -F /etc/hostname
cat /etc/motd
";

const MOTD: &str = "
Welcome to a guest of Redan. Look around: uname -a, cat /proc/cpuinfo, cat /proc/iomem.
`poweroff` ends the guest, and the host then accounts for every page.

";

const PROFILE: &str = "\
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
export HOME=/root TERM=${TERM:-vt100}
export PS1='\\w # '
";

/// The archive, with `busybox` (a static arm64 binary) inside.
#[must_use]
pub fn build(busybox: &[u8]) -> Vec<u8> {
    let mut w = Writer::new();
    for dir in [
        "bin", "sbin", "usr/bin", "usr/sbin", "etc", "dev", "proc", "sys", "tmp", "root", "var/run",
    ] {
        w.dir(dir);
    }
    w.file("bin/busybox", 0o755, busybox);
    // Before `--install` has run only these names exist.
    for name in ["init", "sbin/init", "bin/sh", "bin/cttyhack", "bin/sync", "sbin/reboot"] {
        w.link(name, "/bin/busybox");
    }
    // The console that the kernel opens for init when it mounts no devtmpfs by itself.
    w.char_device("dev/console", 0o600, 5, 1);
    w.file("etc/inittab", 0o644, INITTAB.as_bytes());
    w.file("etc/init.d/rcS", 0o755, RCS.as_bytes());
    w.file("etc/motd", 0o644, MOTD.as_bytes());
    w.file("etc/profile", 0o644, PROFILE.as_bytes());
    w.file("etc/hostname", 0o644, b"guest\n");
    w.file("etc/passwd", 0o644, b"root::0:0:root:/root:/bin/sh\n");
    w.file("etc/group", 0o644, b"root:x:0:\n");
    w.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_the_same_each_time_and_holds_an_init() {
        let archive = build(b"\x7fELF");
        assert_eq!(archive, build(b"\x7fELF"));
        let text = String::from_utf8_lossy(&archive);
        assert!(text.contains("\0init\0") || text.contains("init\0"));
        assert!(text.contains("::respawn:/bin/cttyhack"));
    }
}
