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
    let here = Daemon::with(&["--config", &list, "--identity", &path("here.key")]);
    browser.call("Page.navigate", json!({"url": format!("http://{}/#{}", here.api, here.token)}));
    browser.shows("address", &here.address);
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
