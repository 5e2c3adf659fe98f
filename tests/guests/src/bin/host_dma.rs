//! See `guests::host_dma`.
#![cfg_attr(target_os = "none", no_std, no_main)]

guests::host_payload!(host_dma);
