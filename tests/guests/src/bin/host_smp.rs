//! See `guests::host_smp`.
#![cfg_attr(target_os = "none", no_std, no_main)]

guests::host_payload!(host_smp);
