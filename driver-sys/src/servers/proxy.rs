//! The proxy that leads to brokers and TURN servers: from the list, or from the environment.

use std::net::IpAddr;
use std::path::Path;

use p2pd_core::{Config, Login, Proxy, ProxyKind, Which};
use serde::Deserialize;

use super::host::place;
use super::login::{Password, authority};

/// Prefix of the environment variables that may hold the password of a list's proxy.
const VARIABLES: &str = "P2PD_PROXY_";
/// Variables of the environment that name a proxy, the first one that is set; each in lower case before upper case.
pub(super) const NAMES: [&str; 2] = ["https_proxy", "all_proxy"];
/// The variable that names hosts which are reached without it.
const EXCEPT: &str = "no_proxy";

/// A way out, or the wish to have none.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
// Exhaustive: a proxy and its exceptions.
pub struct WayOut {
    /// The proxy. `None`: servers are reached directly.
    pub proxy: Option<Proxy>,
    /// Hosts that are reached directly: names with all names below them, addresses, networks as `10.0.0.0/8`, or `*` for
    /// all. This machine itself is one of them in any case.
    pub except: Vec<String>,
}

impl WayOut {
    /// The way out that the environment names: `https_proxy` or else `all_proxy`, and `no_proxy`, in lower case or upper case.
    ///
    /// # Errors
    /// Names the variable that is of no use.
    pub fn of_environment() -> Result<Self, String> {
        Self::of(|name| std::env::var(name).ok())
    }

    fn of(variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let read = |name: &str| {
            let names = [name.to_owned(), name.to_uppercase()];
            names.into_iter().find_map(|name| Some((variable(&name).filter(|v| !v.trim().is_empty())?, name)))
        };
        let Some((url, name)) = NAMES.into_iter().find_map(read) else { return Ok(WayOut::default()) };
        let except = read(EXCEPT).map_or(String::new(), |(value, _)| value);
        let except = except.split(|c: char| c == ',' || c.is_whitespace()).filter(|host| !host.is_empty());
        let url = url.trim();
        // curl and others take a place alone for an HTTP proxy's.
        let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let proxy = proxy(&url, None, None).map_err(|why| format!("the variable {name}: {why}"))?;
        Ok(WayOut { proxy: Some(proxy), except: except.map(Into::into).collect() })
    }

    /// Has a node reach its brokers and TURN servers by this way, but those that are excepted.
    pub fn apply(&self, config: &mut Config) {
        if let Some(proxy) = &self.proxy {
            config.set_proxy(proxy, |host| self.excepts(host));
        }
    }

    /// Returns the proxy for this host; `None`: it is reached directly.
    pub fn to(&self, host: &str) -> Option<&Proxy> {
        self.proxy.as_ref().filter(|_| !self.excepts(host))
    }

    /// Returns true if this host is reached directly.
    pub fn excepts(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let ip: Option<IpAddr> = host.parse().ok();
        let here =
            host == "localhost" || host.ends_with(".localhost") || ip.is_some_and(|ip| ip.is_loopback());
        here || self.except.iter().any(|except| {
            let except = except.to_ascii_lowercase();
            match ip {
                _ if except == "*" => true,
                Some(ip) => {
                    let named = except.trim_matches(['[', ']']).parse::<Which>();
                    named.is_ok_and(|named| named.names("", ip))
                }
                None => {
                    let name = except.trim_start_matches("*.").trim_matches('.');
                    let above = host.strip_suffix(name);
                    !name.is_empty() && above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
                }
            }
        })
    }
}

/// `[proxy]` as it stands in a list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    url: String,
    user: Option<String>,
    password: Option<String>,
    password_file: Option<String>,
    password_env: Option<String>,
    #[serde(default)]
    except: Vec<String>,
}

impl Entry {
    pub(super) fn way_out(self, folder: &Path) -> Result<WayOut, String> {
        let Entry { url, user, password, password_file, password_env, except } = self;
        let password = Password { text: password, file: password_file, variable: password_env };
        let password = password.read(folder, VARIABLES)?;
        if url == "none" {
            let more = user.is_some() || password.is_some() || !except.is_empty();
            return if more { Err("no proxy has no other keys".into()) } else { Ok(WayOut::default()) };
        }
        Ok(WayOut { proxy: Some(proxy(&url, user, password)?), except })
    }
}

/// The proxy of an URL, perhaps with a login from elsewhere. The reasons repeat nothing of it.
fn proxy(url: &str, user: Option<String>, password: Option<String>) -> Result<Proxy, String> {
    const SCHEMES: &str = "begin with http:// or socks5://";
    let (scheme, rest) = url.split_once("://").ok_or(format!("proxies {SCHEMES}"))?;
    let (kind, usual) = match scheme.to_ascii_lowercase().as_str() {
        "http" => (ProxyKind::Http, None),
        // Of both the proxy looks names up.
        "socks5" | "socks5h" | "socks" => (ProxyKind::Socks5, Some(1080)),
        "https" => return Err("proxies that are reached by TLS (https://) are not supported".into()),
        "socks4" | "socks4a" => return Err("SOCKS4 is not supported, SOCKS5 is".into()),
        _ => return Err(format!("proxies {SCHEMES}")),
    };
    let (place_and_login, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    if !matches!(path, "" | "/") {
        return Err("a proxy has no path".into());
    }
    let from_url = authority(place_and_login)?;
    let port = from_url.port.or(usual).ok_or("the proxy has no port: http://host:port")?;
    place(&from_url.host, port)?;
    let login = match (from_url.user.or(user), from_url.password.or(password)) {
        (Some(user), password) => Some(Login::new(&user, password.as_deref())),
        (None, Some(_)) => return Err("a `password` without `user`".into()),
        (None, None) => None,
    };
    let proxy = Proxy { kind, host: from_url.host, port, login };
    if proxy.can_reach("a") {
        Ok(proxy)
    } else {
        Err("no such proxy can be told this user name or password: a colon in a user name, or over 255 bytes"
            .into())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Servers;
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Result<WayOut, String> {
        WayOut::of(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).into()))
    }

    fn listed(lines: &str) -> Result<WayOut, String> {
        let servers = Servers::parse(&format!("[proxy]\n{lines}\n"))?;
        let text = servers.to_text();
        assert_eq!(Servers::parse(&text).as_ref(), Ok(&servers), "{text}");
        Ok(servers.proxy.unwrap())
    }

    fn way(kind: ProxyKind, host: &str, port: u16, login: Option<Login>) -> WayOut {
        WayOut { proxy: Some(Proxy { kind, host: host.into(), port, login }), except: Vec::new() }
    }

    #[test]
    fn the_environment_names_a_proxy_as_it_does_for_others() {
        let http = |host| way(ProxyKind::Http, host, 3128, None);
        assert_eq!(environment(&[]), Ok(WayOut::default()));
        assert_eq!(environment(&[("HTTPS_PROXY", "http://a:3128")]), Ok(http("a")));
        assert_eq!(environment(&[("HTTPS_PROXY", "a:3128/")]), Ok(http("a")));
        let both = [
            ("HTTPS_PROXY", "http://a:3128"),
            ("https_proxy", "http://b:3128"),
            ("ALL_PROXY", "http://c:3128"),
        ];
        assert_eq!(environment(&both), Ok(http("b")));
        let all = [("HTTPS_PROXY", " "), ("all_proxy", "socks5h://u:p%40w@[2001:db8::1]")];
        let login = Some(Login::new("u", Some("p@w")));
        assert_eq!(environment(&all), Ok(way(ProxyKind::Socks5, "2001:db8::1", 1080, login)));
        let with = environment(&[("all_proxy", "a:3128"), ("NO_PROXY", "x.test, .y.test 10.0.0.0/8")]);
        assert_eq!(with.unwrap().except, ["x.test", ".y.test", "10.0.0.0/8"]);
        // HTTP_PROXY is another's header where a program is a CGI script.
        assert_eq!(environment(&[("HTTP_PROXY", "a:3128"), ("http_proxy", "a:3128")]), Ok(WayOut::default()));
        for (url, word) in [
            ("https://u:s3cret@a:3128", "not supported"),
            ("socks4://a", "SOCKS5"),
            ("ftp://u:s3cret@a", "http://"),
            ("http://u:s3cret@a", "no port"),
            ("http://u:s3cret@a:x", "no port"),
            ("http://u%3ax:s3cret@a:1", "a colon"),
            ("http://a:1/s3cret", "no path"),
        ] {
            let why = environment(&[("all_proxy", url)]).unwrap_err();
            assert!(why.starts_with("the variable all_proxy: ") && why.contains(word), "{url}: {why}");
            assert!(!why.contains("s3cret"), "{why}");
        }
    }

    #[test]
    fn a_list_names_a_proxy_and_who_we_are_to_it() {
        assert_eq!(listed("url = \"http://a:3128\""), Ok(way(ProxyKind::Http, "a", 3128, None)));
        assert_eq!(listed("url = \"none\""), Ok(WayOut::default()));
        let alice = Some(Login::new("alice", Some("s3cret")));
        let given = listed("url = \"socks5://a\"\nuser = \"alice\"\npassword = \"s3cret\"");
        assert_eq!(given, Ok(way(ProxyKind::Socks5, "a", 1080, alice.clone())));
        assert!(!format!("{given:?}").contains("s3cret"));
        let given = listed("url = \"http://alice:s3cret@a:1\"\nexcept = [\"b\", \"10.0.0.0/8\"]").unwrap();
        assert_eq!((given.proxy.unwrap().login, given.except.len()), (alice, 2));
        for (lines, word) in [
            ("url = \"a:3128\"", "http://"),
            ("url = \"http://a:3128\"\npassword = \"p\"", "without `user`"),
            ("url = \"http://a:3128\"\npassword = \"p\"\npassword_file = \"p\"", "one of"),
            ("url = \"http://a:3128\"\nuser = \"u\"\npassword_env = \"HOME\"", "P2PD_PROXY_"),
            ("url = \"none\"\nuser = \"u\"", "no other"),
            ("url = \"http://a b:1\"", "blank"),
        ] {
            let why = listed(lines).unwrap_err();
            assert!(why.starts_with("[proxy]: ") && why.contains(word), "{lines}: {why}");
        }
    }

    #[test]
    fn excepted_hosts_are_reached_directly_and_this_machine_always() {
        let way =
            |except: &[&str]| WayOut { proxy: None, except: except.iter().map(|e| (*e).into()).collect() };
        for (except, host, direct) in [
            (&[][..], "localhost", true),
            (&[], "a.localhost.", true),
            (&[], "127.0.0.9", true),
            (&[], "::1", true),
            (&[], "a.test", false),
            (&["*"], "a.test", true),
            (&["A.test"], "a.Test", true),
            (&["a.test"], "b.a.test", true),
            (&[".a.test"], "a.test", true),
            (&["*.a.test"], "b.a.test", true),
            (&["a.test"], "ba.test", false),
            (&["."], "a.test", false),
            (&["192.0.2.1"], "192.0.2.1", true),
            (&["192.0.2.1"], "192.0.2.10", false),
            (&["10.0.0.0/8", "2001:db8::/32"], "10.9.9.9", true),
            (&["10.0.0.0/8", "2001:db8::/32"], "11.9.9.9", false),
            (&["10.0.0.0/8", "2001:db8::/32"], "2001:db8:9::1", true),
            (&["0.0.0.0/0"], "192.0.2.1", true),
            (&["0.0.0.0/0"], "2001:db8::1", false),
            (&["10.0.0.0/x"], "10.0.0.1", false),
        ] {
            assert_eq!(way(except).excepts(host), direct, "{except:?} {host}");
        }
    }
}
