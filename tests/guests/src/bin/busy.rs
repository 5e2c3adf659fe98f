//! See `guests::busy`.
#![cfg_attr(target_os = "none", no_std, no_main)]

guests::payload!(busy);
