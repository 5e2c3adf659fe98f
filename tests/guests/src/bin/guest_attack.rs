//! See `guests::guest_attack`.
#![cfg_attr(target_os = "none", no_std, no_main)]

guests::payload!(guest_attack);
