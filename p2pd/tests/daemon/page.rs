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
