# A template: URL and hash are those of a release. Not tried where this was written.
class P2pd < Formula
  desc "Opens a connection between two computers wherever they are"
  homepage "https://github.com/OWNER/p2pd"
  url "https://github.com/OWNER/p2pd/archive/refs/tags/vVERSION.tar.gz"
  sha256 "SHA256"
  license any_of: ["Apache-2.0", "MIT"]

  depends_on "rust" => :build

  def install
    system "cargo", "install", *std_cargo_args(path: "p2pd")
    generate_completions_from_executable(bin/"p2pd", "completions")
    (buildpath/"man").mkpath
    system bin/"p2pd", "man", buildpath/"man"
    man1.install Dir[buildpath/"man/*.1"]
  end

  service do
    run [opt_bin/"p2pd", "daemon", "--no-servers", "--identity", var/"p2pd/key"]
    keep_alive crashed: true
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/p2pd --version")
    system bin/"p2pd", "demo"
  end
end
