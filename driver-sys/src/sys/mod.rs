//! Differences between operating systems, in one room: each file has the same functions, and nothing else in this crate
//! asks which system it is for.
//!
//! `unix` has those that Linux, Apple's systems and the BSDs have in common. What a system has no call for says so in its
//! own file: `Unsupported`, or `None`.

#[cfg(target_vendor = "apple")]
mod apple;
#[cfg(all(unix, not(any(target_os = "linux", target_os = "android", target_vendor = "apple"))))]
mod bsd;
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
mod device;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux;
#[cfg(any(test, not(any(target_os = "linux", target_os = "android", windows))))]
mod route;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(target_vendor = "apple")]
pub(crate) use apple::*;
#[cfg(all(unix, not(any(target_os = "linux", target_os = "android", target_vendor = "apple"))))]
pub(crate) use bsd::*;
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
pub(crate) use device::*;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use linux::*;
#[cfg(unix)]
pub(crate) use unix::*;
#[cfg(windows)]
pub(crate) use windows::*;
