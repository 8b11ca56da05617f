//! Abilities of the processor.

/// Returns true if the processor has the instructions by which ring is fast at AES-256-GCM.
pub(crate) fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    let has = std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    let has =
        std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    let has = false;
    has
}

#[cfg(all(test, target_os = "linux", target_arch = "x86_64"))]
mod tests {
    #[test]
    fn the_kernel_says_the_same() {
        let said = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let flags = said.lines().find(|line| line.starts_with("flags")).unwrap();
        let has = |name: &str| flags.split_whitespace().any(|flag| flag == name);
        assert_eq!(super::has_aes(), has("aes") && has("pclmulqdq"));
    }
}
