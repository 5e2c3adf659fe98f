//! Passes the linker script when, and only when, the image itself is built.

fn main() {
    println!("cargo:rerun-if-changed=../linker/hyp.ld");
    println!("cargo:rerun-if-changed=../boot/entry.S");
    println!("cargo:rerun-if-changed=../boot/vectors.S");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let root = env!("CARGO_MANIFEST_DIR");
        println!("cargo:rustc-link-arg-bins=-T{root}/../linker/hyp.ld");
    }
}
