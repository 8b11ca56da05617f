//! The page in a headless Chromium, by keyboard. Skipped, and said so, where there is no Chromium.

use serde_json::{Value, json};

use crate::browser::Browser;
use crate::common::{Daemon, p2pd, serve, start};

#[test]
fn a_connection_is_opened_and_talked_over_by_keyboard() {
    let profile = tempfile::tempdir().unwrap();
    let Some(mut browser) =
        Browser::start("page::a_connection_is_opened_and_talked_over_by_keyboard", profile.path(), &[])
    else {
        return;
    };
    let (here, there) = (Daemon::start(), Daemon::start());
    browser.call("Page.navigate", json!({"url": format!("http://{}/#{}", here.api, here.token)}));
    browser.shows("address", &here.address);
    browser.shows("nats", "127.0.0.1");
    browser.becomes("(q => !q.hidden && q.complete && q.naturalWidth >= 200)(document.getElementById('qr'))");
    // The token is not left in the address bar, the history or a bookmark.
    assert_eq!(browser.evaluate("location.href"), format!("http://{}/", here.api));
    for id in ["copy", "to"] {
        browser.press("Tab", 9, "");
        assert_eq!(browser.focus(), id);
    }
    browser.write(&there.address);
    browser.press("Enter", 13, "\r");
    browser.shows("outcome", "con_name: direct connect in ");
    browser.shows("progress", "direct: connected");
    // Whatever was tried beside it has an end too.
    browser.becomes("[...document.querySelectorAll('#progress li')].every(l => /connected|not needed/.test(l.textContent))");
    browser.shows("list", &there.id);
    browser.shows("log", "connected");
    assert_eq!(browser.focus(), "text");
    browser.write("ECHO <b>hello</b>");
    browser.press("Enter", 13, "\r");
    browser.shows("log", "< <b>hello</b>");
    assert_eq!(here.ok("/p2p/con/con_name")["piped"], true);
    // A peer's pipe appears by itself.
    there.ok(&format!("/p2p/open/back/{}", here.address));
    browser.shows("list", "by the peer");
    // Both schemes, and a telephone's width.
    for scheme in ["dark", "light"] {
        let feature = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        browser.call("Emulation.setEmulatedMedia", json!({"features": feature}));
        let colours = browser.evaluate(
            "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor].join()",
        );
        let expected = if scheme == "dark" {
            "rgb(230, 232, 235),rgb(20, 23, 27)"
        } else {
            "rgb(27, 31, 36),rgb(246, 247, 249)"
        };
        assert_eq!(colours, expected);
    }
    let narrow = json!({"width": 360, "height": 640, "deviceScaleFactor": 1, "mobile": true});
    browser.call("Emulation.setDeviceMetricsOverride", narrow);
    // Reports name node ids, which have no blank to be broken at.
    browser.evaluate(
        "for (const id of ['verdict', 'outcome']) document.getElementById(id).textContent += 'x'.repeat(60)",
    );
    browser.evaluate("document.getElementById('progress').append(text('li', 'x'.repeat(60), 'bad'))");
    assert_eq!(browser.evaluate("document.documentElement.scrollWidth"), 360);
    let beyond = "[...document.querySelectorAll('button')].filter(b => b.offsetParent && b.getBoundingClientRect().right > 360).length";
    assert_eq!(browser.evaluate(beyond), 0, "every button is in sight");
    let own = format!("http://{}/", here.api);
    assert!(
        browser.requests.iter().all(|url| url.starts_with(&own) || url.starts_with("data:")),
        "{:?}",
        browser.requests
    );
    assert_eq!(browser.complaints, Vec::<Value>::new());
}

/// Calls a peer by its name. For a name that nobody has the page shows an error.
#[test]
fn a_name_is_as_good_as_an_address() {
    let profile = tempfile::tempdir().unwrap();
    let Some(mut browser) = Browser::start("page::a_name_is_as_good_as_an_address", profile.path(), &[])
    else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let list = path("servers.toml");
    let _serving = serve(list.as_ref(), &["--no-turn"]);
    let there = ["listen", "--echo", "--json", "--bind", "127.0.0.1", "--config", &list, "--name", "example"];
    let mut there = p2pd(&there);
    there.args(["--identity", &path("there.key")]);
    let (_listening, events) = start(there, "ready");
    let id = events.iter().find(|event| event["event"] == "ready").unwrap()["node_id"].clone();
    let here = Daemon::with(&["--config", &list, "--identity", &path("here.key"), "--name", "mine"]);
    browser.call("Page.navigate", json!({"url": format!("http://{}/#{}", here.api, here.token)}));
    browser.shows("address", &here.address);
    browser.shows("node", ", mine.peer");
    assert_eq!(here.ok("/p2p/addr")["name"], "mine.peer");
    let connect = |browser: &mut Browser, to: &str, says: &str| {
        browser.evaluate("document.getElementById('to').select()");
        browser.write(to);
        browser.press("Enter", 13, "\r");
        browser.shows("outcome", says);
    };
    connect(&mut browser, "nobody.peer", "no broker knows the name");
    connect(&mut browser, "example.peer", "con_name: direct connect in ");
    assert_eq!(here.ok("/p2p/con/con_name")["peer"], id);
    browser.shows("log", "connected");
    assert_eq!(browser.focus(), "text");
    browser.write("by name");
    browser.press("Enter", 13, "\r");
    browser.shows("log", "< by name");
}

#[test]
fn without_its_token_the_page_asks_for_it() {
    let profile = tempfile::tempdir().unwrap();
    let Some(mut browser) =
        Browser::start("page::without_its_token_the_page_asks_for_it", profile.path(), &[])
    else {
        return;
    };
    let daemon = Daemon::start();
    browser.call("Page.navigate", json!({"url": format!("http://{}/", daemon.api)}));
    // A hidden element has a text too.
    browser.becomes("!document.getElementById('ask').hidden");
    browser.shows("ask", "Token");
    assert_eq!(browser.text("nats"), "");
    browser.press("Tab", 9, "");
    assert_eq!(browser.focus(), "token");
    browser.write(&daemon.token);
    browser.press("Enter", 13, "\r");
    browser.shows("nats", "127.0.0.1");
    assert_eq!(browser.evaluate("document.getElementById('ask').hidden"), true);
}

/// Shows version, servers, sessions and a chart, on a telephone and on a wide window, and does what no peer's text says.
#[test]
fn sessions_are_shown_with_a_chart() {
    let profile = tempfile::tempdir().unwrap();
    let Some(mut browser) = Browser::start("page::sessions_are_shown_with_a_chart", profile.path(), &[])
    else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("servers.toml");
    let _serving = serve(&list, &["--no-turn"]);
    let here = Daemon::with(&["--config", list.to_str().unwrap()]);
    let there = Daemon::start();
    here.ok(&format!("/p2p/session/talk/open/{}", there.address));
    here.ok(&format!("/p2p/open/con/{}", there.address));
    browser.call("Page.navigate", json!({"url": format!("http://{}/#{}", here.api, here.token)}));
    browser.shows("node", env!("CARGO_PKG_VERSION"));
    browser.shows("servers", "1 of 1 brokers take our messages; no relayed address");
    browser.shows("sessions", "talk");
    browser.shows("sessions", "direct to 127.0.0.1:");
    // The peer's answers are carried and counted.
    here.ok("/p2p/send/con/ECHO%20hello");
    browser.becomes("looks.at(-1) && looks.at(-1).sent >= 10");
    browser.becomes("document.getElementById('sent').getAttribute('points').split(' ').length >= 2");
    browser.shows("rate-sent", "B/s");
    browser.shows("rate-trip", "round trip ");
    // What comes from elsewhere stays text.
    let hostile = "<img src=x onerror=alert(1)>";
    let row = format!("document.createElement('div').appendChild(text('td', {}))", json!(hostile));
    assert_eq!(browser.evaluate(&format!("{row}.innerHTML")), "&lt;img src=x onerror=alert(1)&gt;");
    for (width, height) in [(390, 844), (1280, 800)] {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 400});
        browser.call("Emulation.setDeviceMetricsOverride", size);
        let shown = browser.evaluate("document.documentElement.scrollWidth").as_i64().unwrap();
        // A wide window has a bar to scroll by.
        assert!(shown <= width, "{shown} of {width}");
        if let Some(folder) = std::env::var_os("P2PD_SCREENSHOTS") {
            let picture = browser.call("Page.captureScreenshot", json!({"captureBeyondViewport": true}));
            let picture = data_encoding::BASE64.decode(picture["data"].as_str().unwrap().as_bytes()).unwrap();
            std::fs::write(std::path::Path::new(&folder).join(format!("{width}.png")), picture).unwrap();
        }
    }
    let own = format!("http://{}/", here.api);
    let inside = |url: &String| url.starts_with(&own) || url.starts_with("data:");
    assert!(browser.requests.iter().all(inside), "{:?}", browser.requests);
    assert_eq!(browser.complaints, Vec::<Value>::new());
}

/// Drops a file on the page, which the other side's page is asked about by keyboard; and opens a door to a service.
#[test]
fn a_file_that_is_dropped_arrives_and_a_service_is_reached() {
    let test = "page::a_file_that_is_dropped_arrives_and_a_service_is_reached";
    let profiles = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let Some(mut browser) = Browser::start(test, profiles[0].path(), &[]) else { return };
    let Some(mut other) = Browser::start(test, profiles[1].path(), &[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let into = dir.path().join("in");
    let service = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let echo = format!("echo={}", service.local_addr().unwrap());
    let there = ["--no-servers", "--files", into.to_str().unwrap(), "--expose", &echo, "--expose-to-anyone"];
    let (here, there) = (Daemon::start(), Daemon::with(&there));
    here.ok(&format!("/p2p/open/friend/{}", there.address));
    for (browser, daemon) in [(&mut browser, &here), (&mut other, &there)] {
        browser.call("Page.navigate", json!({"url": format!("http://{}/#{}", daemon.api, daemon.token)}));
        browser.shows("address", &daemon.address);
    }
    browser.shows("list", "friend");
    browser.shows("folder", "No files are received");
    other.shows("folder", into.to_str().unwrap());
    other.shows("services", "echo at 127.0.0.1:");

    // The browser's own drag and drop, with a file of the disk.
    let data: Vec<u8> = (0..9_000_000_u32).map(|n| (n.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    let file = dir.path().join("<b>photo.jpg");
    std::fs::write(&file, &data).unwrap();
    let drop_at = |browser: &mut Browser, place: &str| {
        let at = browser.find(place);
        let data = json!({"items": [], "files": [file.to_str().unwrap()], "dragOperationsMask": 1});
        for kind in ["dragEnter", "dragOver", "drop"] {
            let event = json!({"type": kind, "x": at[0], "y": at[1], "data": data});
            browser.call("Input.dispatchDragEvent", event);
        }
    };
    // Without a broker nobody can be met by a code.
    drop_at(&mut browser, "document.getElementById('drop')");
    browser.shows("file-outcome", "<b>photo.jpg: not connected: no broker is there to meet at");
    drop_at(&mut browser, "document.getElementById('list').rows[0]");
    browser.shows("file-outcome", "sending <b>photo.jpg");
    other.shows("transfers", "wants to send 1 file, 9.0 MB: <b>photo.jpg");
    other.shows("waiting", "1 peer would send files");
    assert_eq!(other.evaluate("document.title"), "(1) p2pd");
    browser.shows("transfers", "waiting for the peer's yes");
    assert!(other.evaluate("document.querySelector('#transfers b')").is_null());
    // Each button says what it is for, and is reached by key.
    let label = "document.querySelector('#transfers button').getAttribute('aria-label')";
    assert!(other.evaluate(label).as_str().unwrap().starts_with("Accept: "), "{label}");
    other.evaluate("document.querySelector('#transfers button').focus()");
    other.press("Enter", 13, "\r");
    browser.shows("file-outcome", "<b>photo.jpg: sent");
    browser.shows("transfers", "done, 9.0 MB");
    other.shows("transfers", "done, 9.0 MB, as <b>photo.jpg");
    assert!(std::fs::read(into.join("<b>photo.jpg")).unwrap() == data);
    // What files and services carry is in the chart.
    browser.becomes("looks.at(-1).sent >= 9000000");

    // Chosen by the button's way, to an address, and refused.
    browser.evaluate("document.getElementById('file-to').select()");
    browser.evaluate("document.getElementById('file-to').focus()");
    browser.write(&there.address);
    let document = browser.call("DOM.getDocument", json!({}))["root"]["nodeId"].clone();
    let pick = browser.call("DOM.querySelector", json!({"nodeId": document, "selector": "#pick"}));
    let choose = |browser: &mut Browser| {
        let files = json!({"nodeId": pick["nodeId"], "files": [file.to_str().unwrap()]});
        browser.call("DOM.setFileInputFiles", files);
    };
    choose(&mut browser);
    other.shows("transfers", "wants to send");
    // No pointer says yes to what has moved below it.
    let accept = "[...document.querySelectorAll('#transfers button')].find(b => b.textContent === 'Accept')";
    let still = format!("performance.now() - rows.get(Math.max(...rows.keys())).since > STILL && {accept}");
    other.becomes(&format!("!!({still})"));
    other.evaluate("document.getElementById('transfers').style.paddingTop = '50px'");
    other.click(accept);
    other.shows("file-outcome", "the list has just moved: press once more");
    other.shows("transfers", "wants to send");
    other.evaluate(
        "[...document.querySelectorAll('#transfers button')].find(b => b.textContent === 'Refuse').click()",
    );
    browser.shows("file-outcome", "the receiver's user said no");
    other.becomes("!document.getElementById('transfers').innerText.includes('wants to send')");
    choose(&mut browser);
    other.becomes(&format!("!!({still})"));
    other.click(accept);
    browser.shows("file-outcome", "<b>photo.jpg: sent");

    // A service, by keyboard.
    browser.evaluate("document.getElementById('f-to').focus()");
    browser.write(&there.address);
    browser.press("Tab", 9, "");
    assert_eq!(browser.focus(), "f-service");
    browser.write("echo");
    browser.press("Enter", 13, "\r");
    browser.shows("f-outcome", "forward: 127.0.0.1:");
    browser.shows("forwards", "direct to 127.0.0.1:");
    let at = here.ok("/p2p/forward/forward")["at"].as_str().unwrap().to_owned();
    let _visit = std::net::TcpStream::connect(&at).unwrap();
    service.accept().unwrap();
    for (width, height) in [(360, 740), (1280, 900)] {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 400});
        browser.call("Emulation.setDeviceMetricsOverride", size);
        let shown = browser.evaluate("document.documentElement.scrollWidth").as_i64().unwrap();
        assert!(shown <= width, "{shown} of {width}");
        let unlabelled = "[...document.querySelectorAll('input')].filter(i => !i.labels.length && !i.getAttribute('aria-label')).length";
        assert_eq!(browser.evaluate(unlabelled), 0);
        if let Some(folder) = std::env::var_os("P2PD_SCREENSHOTS") {
            let picture = browser.call("Page.captureScreenshot", json!({"captureBeyondViewport": true}));
            let picture = data_encoding::BASE64.decode(picture["data"].as_str().unwrap().as_bytes()).unwrap();
            std::fs::write(std::path::Path::new(&folder).join(format!("files-{width}.png")), picture)
                .unwrap();
        }
    }
    browser.evaluate("document.querySelector('#forwards button').click()");
    browser.becomes("!document.getElementById('no-forwards').hidden");
    let own = format!("http://{}/", here.api);
    let inside = |url: &String| url.starts_with(&own) || url.starts_with("data:");
    assert!(browser.requests.iter().all(inside), "{:?}", browser.requests);
    // What is refused has a status, which the browser notes.
    let is_noted = |of: &Value| {
        of["entry"]["text"].as_str().is_some_and(|text| text.contains("409") || text.contains("502"))
    };
    assert!(browser.complaints.iter().all(is_noted), "{:?}", browser.complaints);
    assert_eq!(other.complaints, Vec::<Value>::new());
}

/// Sends a file by a code from one page to another one.
#[test]
fn a_code_brings_a_file_from_page_to_page() {
    let test = "page::a_code_brings_a_file_from_page_to_page";
    let profiles = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let Some(mut browser) = Browser::start(test, profiles[0].path(), &[]) else { return };
    let Some(mut other) = Browser::start(test, profiles[1].path(), &[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let (list, into, file) =
        (dir.path().join("servers.toml"), dir.path().join("in"), dir.path().join("file"));
    let _serving = serve(&list, &["--no-turn"]);
    let config = ["--config", list.to_str().unwrap()];
    let (here, there) =
        (Daemon::with(&config), Daemon::with(&[&config[..], &["--files", into.to_str().unwrap()]].concat()));
    std::fs::write(&file, "by a code").unwrap();
    for (browser, daemon) in [(&mut browser, &here), (&mut other, &there)] {
        browser.call("Page.navigate", json!({"url": format!("http://{}/#{}", daemon.api, daemon.token)}));
        browser.shows("address", &daemon.address);
    }
    assert_eq!(browser.evaluate("document.getElementById('receive').hidden"), true);
    let document = browser.call("DOM.getDocument", json!({}))["root"]["nodeId"].clone();
    let pick = browser.call("DOM.querySelector", json!({"nodeId": document, "selector": "#pick"}));
    let files = json!({"nodeId": pick["nodeId"], "files": [file.to_str().unwrap()]});
    browser.call("DOM.setFileInputFiles", files);
    browser.shows("transfers", "Code: ");
    let shown = browser.text("transfers");
    let code = shown.split_once("Code: ").unwrap().1.split_once('.').unwrap().0.to_owned();
    other.becomes("!document.getElementById('receive').hidden");
    other.evaluate("document.getElementById('code').focus()");
    other.write(&code);
    other.press("Enter", 13, "\r");
    other.shows("transfers", "done, 9 B, as file");
    browser.shows("file-outcome", "file: sent");
    assert_eq!(std::fs::read_to_string(into.join("file")).unwrap(), "by a code");
    assert_eq!((browser.complaints, other.complaints), (Vec::<Value>::new(), Vec::<Value>::new()));
}
