//! The playground in a headless Chromium. `tests/long/playground` builds its WebAssembly and names the folder: `P2PD_PLAYGROUND`.

#[allow(dead_code, reason = "the daemon's tests call more of it")]
#[path = "../../../../p2pd/tests/daemon/browser.rs"]
mod browser;
#[path = "../../../../p2pd/tests/daemon/outside.rs"]
mod outside;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use netsim_page::run;
use serde_json::{Value, json};

use browser::Browser;

/// Answers one request for one of the page's two files.
fn answer(mut stream: TcpStream, folder: &Path) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let (name, kind) = match first.split(' ').nth(1) {
        Some("/") => ("index.html", "text/html"),
        Some("/netsim.wasm") => ("netsim.wasm", "application/wasm"),
        _ => return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
    };
    let body = std::fs::read(folder.join(name))?;
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)
}

fn serve(folder: PathBuf) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A browser opens connections that it then does not use.
            let folder = folder.clone();
            std::thread::spawn(move || answer(stream, &folder));
        }
    });
    address
}

/// The native run of a link.
fn native(query: &str) -> Value {
    serde_json::from_str(&run(query)).unwrap()
}

/// Packets that the picture has of a run once it is over: those between two of its columns.
fn packets(run: &Value) -> usize {
    let column = |place: &Value| run["places"].as_array().unwrap().iter().any(|other| other["id"] == *place);
    run["hops"].as_array().unwrap().iter().filter(|hop| column(&hop[0]) && column(&hop[1])).count()
}

/// A page, and where it is served.
struct Page {
    browser: Browser,
    root: String,
}

impl Page {
    fn open(test: &str, profile: &Path) -> Option<Page> {
        let browser = Browser::start(test, profile, &[])?;
        let folder = std::env::var_os("P2PD_PLAYGROUND")
            .expect("P2PD_PLAYGROUND: the folder that contrib/playground built");
        let mut page = Page { browser, root: format!("http://{}/", serve(folder.into())) };
        page.link("");
        Some(page)
    }

    /// Opens a link as somebody does who was sent it.
    fn link(&mut self, query: &str) {
        self.browser.call("Page.navigate", json!({"url": "about:blank"}));
        self.browser.becomes("location.href === 'about:blank'");
        let url = if query.is_empty() { self.root.clone() } else { format!("{}#{query}", self.root) };
        self.browser.call("Page.navigate", json!({"url": url}));
        self.browser.becomes("document.body?.dataset.ready === 'yes'");
    }

    fn focus_on(&mut self, element: &str) {
        self.browser.evaluate(&format!("({element}).focus()"));
    }

    fn key(&mut self, key: &str) {
        match key {
            "Enter" => self.browser.press("Enter", 13, "\r"),
            "Tab" => self.browser.press("Tab", 9, ""),
            "End" => self.browser.press("End", 35, ""),
            "Space" => self.browser.press(" ", 32, " "),
            letters => {
                for letter in letters.chars() {
                    self.browser.press(
                        &letter.to_string(),
                        letter.to_ascii_uppercase() as u32,
                        &letter.to_string(),
                    );
                }
            }
        }
    }

    /// Presses a button by keyboard.
    fn push(&mut self, id: &str) {
        self.focus_on(&format!("document.getElementById('{id}')"));
        self.key("Enter");
    }

    /// Moves the time to its end, by keyboard.
    fn go_to_the_end(&mut self) {
        self.focus_on("document.getElementById('time')");
        self.key("End");
    }

    fn write_into(&mut self, field: &str, text: &str) {
        self.browser.evaluate(&format!("document.querySelector('[name={field}]').select()"));
        self.browser.write(text);
    }

    fn drawn(&mut self) -> usize {
        self.browser.evaluate("document.querySelectorAll('#chart line.hop').length").as_u64().unwrap()
            as usize
    }

    /// Compares what the page shows with the native run of this link.
    fn shows_run(&mut self, query: &str) {
        let run = native(query);
        let outcome = if run["connected"] == true { "connected" } else { "not connected" };
        assert_eq!(self.browser.text("outcome"), outcome, "{query}");
        assert_eq!(self.browser.text("digest"), run["digest"].as_str().unwrap(), "{query}");
        assert_eq!(self.drawn(), packets(&run), "{query}");
    }

    /// A picture of the page, where `P2PD_SCREENSHOTS` names a folder.
    fn picture(&mut self, name: &str) {
        let Some(folder) = std::env::var_os("P2PD_SCREENSHOTS") else { return };
        // What a window has of the packets, and the whole page.
        self.browser.evaluate("document.getElementById('scroll').scrollIntoView()");
        for (part, whole) in [("packets", false), ("page", true)] {
            let picture =
                self.browser.call("Page.captureScreenshot", json!({"captureBeyondViewport": whole}));
            let picture = data_encoding::BASE64.decode(picture["data"].as_str().unwrap().as_bytes()).unwrap();
            std::fs::write(Path::new(&folder).join(format!("{name}-{part}.png")), picture).unwrap();
        }
    }

    fn width(&mut self, width: u64) {
        let size = json!({"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500});
        self.browser.call("Emulation.setDeviceMetricsOverride", size);
    }

    fn motion(&mut self, reduced: bool) {
        let value = if reduced { "reduce" } else { "no-preference" };
        let feature = json!([{"name": "prefers-reduced-motion", "value": value}]);
        self.browser.call("Emulation.setEmulatedMedia", json!({"features": feature}));
    }

    /// Ends it: nothing came from elsewhere, and the browser complained of nothing.
    fn close(self) {
        let inside =
            |url: &String| url.starts_with(&self.root) || url.starts_with("data:") || url == "about:blank";
        assert!(self.browser.requests.iter().all(inside), "{:?}", self.browser.requests);
        assert_eq!(self.browser.complaints, Vec::<Value>::new());
    }
}

#[test]
#[ignore = "tests/long/playground builds the page first"]
fn two_nats_are_chosen_connected_stepped_through_and_shared_by_keyboard() {
    let profile = tempfile::tempdir().unwrap();
    let test = "two_nats_are_chosen_connected_stepped_through_and_shared_by_keyboard";
    let Some(mut page) = Page::open(test, profile.path()) else { return };
    assert_eq!(page.browser.evaluate("document.getElementById('run').hidden"), true);
    for id in ["a", "b"] {
        page.key("Tab");
        assert_eq!(page.browser.focus(), id);
    }
    page.key("openwrt");
    assert_eq!(page.browser.evaluate("document.getElementById('b').value"), "openwrt");
    page.push("connect");
    // It plays by itself, and halts.
    assert_eq!(page.browser.text("play"), "Pause");
    page.browser.becomes("document.querySelectorAll('#chart line.hop').length >= 2");
    page.push("play");
    assert_eq!(page.browser.text("play"), "Play");
    let halted = page.drawn();
    page.go_to_the_end();
    let query = "seed=1&a=linux&b=openwrt";
    page.shows_run(query);
    assert!(halted < page.drawn(), "{halted}");
    assert_eq!(page.browser.evaluate("location.hash"), format!("#{query}"));

    // From event to event, forward and back: as many as there are times.
    page.focus_on("document.getElementById('time')");
    page.browser.press("Home", 36, "");
    let (mut steps, mut most) = (0, 0);
    page.focus_on("document.getElementById('step')");
    while page.browser.text("outcome") == "…" {
        page.key("Space");
        let drawn = page.drawn();
        assert!(drawn >= most && steps < 200, "{drawn} after {most}");
        (steps, most) = (steps + 1, drawn);
    }
    assert_eq!(page.browser.evaluate("times.length - 1"), steps);
    page.shows_run(query);
    page.browser.shows("said", "data");
    page.push("back");
    assert_eq!(page.browser.text("outcome"), "…");
    assert!(page.browser.evaluate("document.querySelectorAll('#tables td').length").as_u64().unwrap() >= 4);

    // Another NAT and a fault: the internet loses two of three packets.
    page.focus_on("document.getElementById('a')");
    page.key("symmetric-seq1");
    page.focus_on("document.querySelector('summary')");
    page.key("Enter");
    page.write_into("loss", "66");
    page.write_into("seed", "18446744073709551615");
    page.key("Enter");
    page.go_to_the_end();
    let query = "seed=18446744073709551615&a=symmetric-seq1&b=openwrt&loss=66";
    page.shows_run(query);
    assert!(
        page.browser.evaluate("document.querySelectorAll('#chart .cross').length").as_u64().unwrap() >= 2
    );
    page.browser.shows("why", "got lost on the way");

    // The link that is copied, opened by somebody else.
    let permissions = json!({"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]});
    page.browser.call("Browser.grantPermissions", permissions);
    page.push("copy");
    page.browser.becomes("document.getElementById('copied').textContent !== ''");
    let shared = match page.browser.text("copied") {
        copied if copied == "copied" => {
            page.browser.promised("navigator.clipboard.readText()").as_str().unwrap().to_owned()
        }
        link => link,
    };
    let (root, shared) = shared.split_once('#').unwrap();
    assert_eq!((root, shared), (&page.root[..], query));
    page.link(shared);
    page.go_to_the_end();
    page.shows_run(query);
    assert_eq!(page.browser.evaluate("form.loss.value"), "66");
    page.close();
}

#[test]
#[ignore = "tests/long/playground builds the page first"]
fn webassembly_answers_as_a_native_build_does() {
    let profile = tempfile::tempdir().unwrap();
    let Some(mut page) = Page::open("webassembly_answers_as_a_native_build_does", profile.path()) else {
        return;
    };
    let nats = page.browser.evaluate("[...document.getElementById('a').options].map(option => option.value)");
    let nats = nats.as_array().unwrap().clone();
    assert!(nats.len() > 20, "{nats:?}");
    // The last one is for a chain of one's own.
    for (n, nat) in nats[..nats.len() - 1].iter().enumerate() {
        let other = &nats[(7 * n + 3) % (nats.len() - 1)];
        let query = format!(
            "seed={n}&a={}&b={}&loss={}&listen={}&retry=1",
            nat.as_str().unwrap(),
            other.as_str().unwrap(),
            n % 40,
            n % 2
        );
        let answer = page.browser.evaluate(&format!("JSON.stringify(ask({}))", json!(query)));
        assert_eq!(
            serde_json::from_str::<Value>(answer.as_str().unwrap()).unwrap(),
            native(&query),
            "{query}"
        );
    }
    page.close();
}

#[test]
#[ignore = "tests/long/playground builds the page first"]
fn a_wrong_link_is_complained_about() {
    let profile = tempfile::tempdir().unwrap();
    let Some(mut page) = Page::open("a_wrong_link_is_complained_about", profile.path()) else { return };
    let long = format!("a={}", "linux%2B".repeat(300));
    for (link, complaint) in [
        ("rst=xyz", "rst: \"xyz\" is neither a, b nor ab"),
        ("late=soon", "late: \"soon\" is no number from 0 to 10000"),
        ("loss=101", "loss: \"101\" is no number from 0 to 100"),
        ("seed=1.5", "seed: \"1.5\" is no number from 0 to 18446744073709551615"),
        ("a=%3Cimg src=x onerror=alert(1)%3E", "<img src=x onerror=alert(1)>: no NAT is called"),
        ("b=linux,range=9-3", "linux,range=9-3: \"9-3\" is no value of its field"),
        ("colour=red", "\"colour\" is no wish"),
        (&long, "the link is too long"),
    ] {
        page.link(link);
        page.browser.shows("error", complaint);
        assert_eq!(page.browser.evaluate("document.getElementById('run').hidden"), true, "{link}");
        assert!(page.browser.evaluate("document.querySelector('img')").is_null(), "{link}");
        // What the form takes of it is corrected there.
        page.browser.evaluate("form.reset(); showOwn('a'); showOwn('b')");
        page.push("connect");
        page.browser
            .becomes("!document.getElementById('run').hidden && document.getElementById('error').hidden");
    }
    // A field that is wrong is shown.
    page.link("");
    page.browser.evaluate("form.loss.value = ''");
    page.push("connect");
    assert_eq!(page.browser.evaluate("document.getElementById('more').open"), true);
    assert_eq!(page.browser.evaluate("document.getElementById('run').hidden"), true);
    // A simulator that stops is said to, and another one is loaded.
    page.link("");
    page.browser.evaluate("wasm = { room() { throw new Error('unreachable'); } }");
    page.push("connect");
    page.browser.shows("error", "The simulator stopped, which is a fault of ours (unreachable).");
    page.browser.becomes("typeof wasm.memory === 'object'");
    page.push("connect");
    page.go_to_the_end();
    page.shows_run("seed=1&a=linux&b=linux");
    page.close();
}

#[test]
#[ignore = "tests/long/playground builds the page first"]
fn the_page_fits_a_telephone_and_spares_who_wants_no_motion() {
    let profile = tempfile::tempdir().unwrap();
    let test = "the_page_fits_a_telephone_and_spares_who_wants_no_motion";
    let Some(mut page) = Page::open(test, profile.path()) else { return };
    page.motion(true);
    for (link, name) in [
        ("seed=1&a=linux&b=openwrt&late=100", "late"),
        ("seed=3&a=linux%2Bcgn&b=double&late=30&drop=a&loss=20&retry=1", "chains"),
        ("late=soon", "wrong"),
    ] {
        page.link(link);
        for width in [360, 1280] {
            page.width(width);
            page.picture(&format!("{name}-{width}"));
            let shown = page.browser.evaluate("document.documentElement.scrollWidth").as_u64().unwrap();
            assert!(shown <= width, "{name}: {shown} of {width}");
            // No address is broken, and no button or text of the picture is out of sight.
            let broken = "[...document.querySelectorAll('#tables span')].filter(s => s.offsetHeight > 20 || s.getBoundingClientRect().right > innerWidth).length";
            assert_eq!(page.browser.evaluate(broken), 0, "{name} {width}");
            let beyond = "[...document.querySelectorAll('button, #chart text')].filter(b => b.getBoundingClientRect().right > innerWidth + 1 || b.getBoundingClientRect().left < -1).length";
            assert_eq!(page.browser.evaluate(beyond), 0, "{name} {width}");
        }
        let unlabelled = "[...document.querySelectorAll('input, select')].filter(i => !i.labels.length && !i.getAttribute('aria-label')).length";
        assert_eq!(page.browser.evaluate(unlabelled), 0);
    }
    // The whole picture at once, and no motion but from event to event.
    let query = "seed=1&a=linux&b=openwrt";
    page.link(query);
    page.shows_run(query);
    assert_eq!(page.browser.text("play"), "Play");
    page.push("play");
    assert_eq!(page.browser.text("play"), "Pause");
    page.browser.becomes("document.querySelectorAll('#chart line.hop').length >= 2");
    assert_eq!(page.browser.evaluate("heights.includes(height)"), true);
    page.push("play");
    assert_eq!(page.browser.text("play"), "Play");
    page.close();
}
