//! el1-host/vmm
