//! Chromium's own WebRTC through the TURN server of `serve`: a client that others wrote, with its own ICE, DTLS and SCTP.

use p2pd::servers::{Servers, TurnCredential};
use serde_json::json;

use crate::browser::Browser;
use crate::common::serve;
use crate::javascript::server;

/// Two peers in one page that know nothing of each other but relayed candidates; each sends the other random bytes.
const PEERS: &str = r#"
const MIB = 1 << 20, PIECE = 16 << 10;
const hex = async bytes => [...new Uint8Array(await crypto.subtle.digest("SHA-256", bytes))].join();
// What comes, whole; and when.
const receive = (channel, size) => new Promise((kept, broken) => {
    const all = new Uint8Array(size);
    let at = 0;
    channel.binaryType = "arraybuffer";
    channel.onclose = () => broken(`closed at ${at}`);
    channel.onmessage = ({data}) => {
        all.set(new Uint8Array(data), at);
        if ((at += data.byteLength) === size) kept(all);
    };
});
const send = async (channel, bytes) => {
    channel.bufferedAmountLowThreshold = MIB / 2;
    for (let at = 0; at < bytes.length; at += PIECE) {
        if (channel.bufferedAmount > MIB) await new Promise(low => channel.onbufferedamountlow = low);
        channel.send(bytes.subarray(at, at + PIECE));
    }
};
// Kinds of both ends of the pair in use, and what carries this end's relay.
const path = async peer => {
    const stats = await peer.getStats();
    for (const {selectedCandidatePairId: id} of stats.values()) {
        if (!id) continue;
        const [pair, of] = [stats.get(id), end => stats.get(end)];
        const [local, remote] = [of(pair.localCandidateId), of(pair.remoteCandidateId)];
        return [local.candidateType, remote.candidateType, local.relayProtocol];
    }
};
async function relayed(server, size) {
    const config = {iceServers: [server], iceTransportPolicy: "relay"};
    const peers = [new RTCPeerConnection(config), new RTCPeerConnection(config)];
    const [a, b] = peers;
    const failed = new Promise((_, broken) => {
        for (const peer of peers) {
            const errors = [];
            peer.onicecandidateerror = e => errors.push(`${e.url} ${e.errorCode} ${e.errorText}`);
            peer.onconnectionstatechange = () => peer.connectionState === "failed" && broken(errors.join() || "failed");
            setTimeout(() => broken(`${peer.connectionState} for too long: ${errors}`), 30000);
        }
    });
    a.onicecandidate = ({candidate}) => candidate && b.addIceCandidate(candidate);
    b.onicecandidate = ({candidate}) => candidate && a.addIceCandidate(candidate);
    const one = a.createDataChannel("bytes");
    const open = new Promise(kept => one.onopen = kept);
    const other = new Promise(kept => b.ondatachannel = ({channel}) => kept(channel));
    await a.setLocalDescription();
    await b.setRemoteDescription(a.localDescription);
    await b.setLocalDescription();
    await a.setRemoteDescription(b.localDescription);
    const talk = async () => {
        const channels = [one, await other];
        await open;
        const sent = channels.map(() => {
            const bytes = new Uint8Array(size);
            for (let at = 0; at < size; at += 1 << 16) crypto.getRandomValues(bytes.subarray(at, at + (1 << 16)));
            return bytes;
        });
        const got = channels.map(channel => receive(channel, size));
        await Promise.all(channels.map((channel, n) => send(channel, sent[n])));
        const [atA, atB] = await Promise.all(got);
        return [await hex(atA) === await hex(sent[1]), await hex(atB) === await hex(sent[0]), await path(a), await path(b)];
    };
    try { return await Promise.race([talk(), failed]); } finally { peers.forEach(peer => peer.close()); }
}
"#;

#[test]
fn chromium_sends_eight_megabytes_each_way_through_our_relays() {
    let dir = tempfile::tempdir().unwrap();
    let test = "webrtc::chromium_sends_eight_megabytes_each_way_through_our_relays";
    // Chromium gathers nothing on loopback by itself, and must not announce names to the network.
    let more = ["--allow-loopback-in-peer-connection", "--disable-features=WebRtcHideLocalIpsWithMdns"];
    let Some(mut browser) = Browser::start(test, &dir.path().join("profile"), &more) else { return };
    let list = dir.path().join("servers.toml");
    let password = dir.path().join("password");
    let _serving = serve(&list, &["--turn-password-file", password.to_str().unwrap()]);
    let turn = Servers::read(&list).unwrap().turn.remove(0);
    let TurnCredential::Password { user, .. } = &turn.credential else { panic!("{:?}", turn.credential) };
    let password = std::fs::read_to_string(password).unwrap();
    let page = format!("http://localhost:{}/", server().port());
    browser.call("Page.navigate", json!({"url": page}));
    browser.becomes(&format!("location.href === '{page}' && document.readyState === 'complete'"));
    browser.evaluate(PEERS);
    for transport in ["udp", "tcp"] {
        let url = format!("turn:127.0.0.1:{}?transport={transport}", turn.port);
        let server = json!({"urls": url, "username": user, "credential": password.trim()});
        let said = browser.promised(&format!("relayed({server}, 8 * MIB)"));
        let path = json!(["relay", "relay", transport]);
        assert_eq!(said, json!([true, true, path, path]), "{transport}");
    }
}
