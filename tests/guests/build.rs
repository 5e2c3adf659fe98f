//! Links each payload with linker/guest.ld when it is built for the bare target.
use std::env;
use std::path::Path;

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    println!("cargo:rerun-if-changed={}", root.join("boot/guest.S").display());
    println!("cargo:rerun-if-changed={}", root.join("linker/guest.ld").display());
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none") {
        println!("cargo:rustc-link-arg-bins=-T{}", root.join("linker/guest.ld").display());
    }
}
