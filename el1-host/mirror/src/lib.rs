//! el1-host/mirror
