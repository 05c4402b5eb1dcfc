//! As much of HTTP/1.1 as a scrape needs: the head of a request, the head of a response.
//!
//! No keep-alive: each response says so, and the end of the stream follows it. Bodies of requests are
//! ignored. Knows no socket.

use super::allowed_hosts::Host;
use crate::base::trace::TraceTarget;
use std::fmt::Write;
use std::rc::Rc;

/// Size limit of a request's head.
pub const MAX_HEAD_BYTES: usize = 8 << 10;
/// Limit of a request's header lines. One line more is refused as one byte too many is.
const MAX_HEADERS: usize = 64;
/// Upper limit of the number in `/sessions?slowest=`: each number makes a list of its own, and short
/// lists cost next to nothing.
pub const MAX_SLOWEST: usize = 100;
/// The longest account in `/sessions?account=`, as in the cluster.
const MAX_ACCOUNT_BYTES: usize = 64;

/// What a browser may do with a response: run the script in the live page itself, and send requests to
/// this port. Text never becomes markup, whatever a peer has sent. Every response has the policy: the
/// other responses hold nothing that could run.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
     img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// The resource of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// The live page, which shows the other resources.
    Page,
    /// The counters.
    Metrics,
    /// Whether the server is ready.
    Health,
    /// The connected sessions.
    Sessions(Selection),
    /// The trace of these sessions.
    Trace(TraceTarget),
    /// The session of an account, on any node of the cluster.
    Account(Rc<str>),
    /// The nodes of the cluster.
    Nodes,
}

/// Which sessions a list has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selection {
    /// All sessions.
    All,
    /// The given number of sessions that are furthest behind, 1 to [`MAX_SLOWEST`].
    Slowest(usize),
}

/// A valid request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The requested resource.
    pub route: Route,
    /// The response has no body (`HEAD`).
    pub is_head: bool,
}

/// The status of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The response has the requested resource.
    Ok,
    /// The request is not HTTP/1, or names a list of sessions that does not exist.
    BadRequest,
    /// A page of another site asks for sessions or a trace.
    CrossSite,
    /// The port does not answer for the host of the request.
    Misdirected,
    /// The path does not exist.
    NotFound,
    /// The path exists, but not with this method.
    MethodNotAllowed,
    /// The head of the request was not complete in time.
    Timeout,
    /// The head of the request is too long.
    HeadTooLarge,
    /// The resource is not available now.
    Unavailable,
}

impl Request {
    /// Parses the head of a request whose host `is_allowed`. `None` while the end of the head is missing.
    ///
    /// A request of HTTP/1.0 may have no host: a browser, which a page on another site could use,
    /// always names one.
    ///
    /// # Errors
    /// The status of the refusal.
    pub fn parse(
        bytes: &[u8],
        is_allowed: impl FnOnce(&Host) -> bool,
    ) -> Result<Option<Self>, Status> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(bytes) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) if bytes.len() >= MAX_HEAD_BYTES => {
                return Err(Status::HeadTooLarge);
            }
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(Status::HeadTooLarge),
            Err(_) => return Err(Status::BadRequest),
        }
        let (Some(method), Some(target)) = (request.method, request.path) else {
            return Err(Status::BadRequest);
        };
        match host(request.headers)? {
            Some(host) if !is_allowed(&host) => return Err(Status::Misdirected),
            None if request.version != Some(0) => return Err(Status::BadRequest),
            _ => {}
        }
        let (path, query) = path_and_query(target);
        if !["/", "/metrics", "/healthz", "/sessions", "/nodes", "/trace"].contains(&path) {
            return Err(Status::NotFound);
        }
        let is_head = match method {
            "GET" => false,
            "HEAD" => true,
            _ => return Err(Status::MethodNotAllowed),
        };
        // The query is parsed last: a wrong path or method is wrong whatever the query is.
        let route = match path {
            "/metrics" => Route::Metrics,
            "/healthz" => Route::Health,
            "/sessions" => Route::of_sessions(query)?,
            "/nodes" => Route::Nodes,
            "/trace" => Route::Trace(trace_target(query)?),
            _ => Route::Page,
        };
        let costs_work = matches!(
            route,
            Route::Sessions(_) | Route::Account(_) | Route::Trace(_)
        );
        if costs_work && is_cross_site(request.headers) {
            return Err(Status::CrossSite);
        }
        Ok(Some(Self { route, is_head }))
    }
}

impl Route {
    /// Unknown names are ignored. Of several known names the first counts.
    fn of_sessions(query: &str) -> Result<Self, Status> {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        match pairs.find(|(name, _)| ["slowest", "account"].contains(name)) {
            None => Ok(Self::Sessions(Selection::All)),
            Some(("account", account)) => decode(account)
                .filter(|account| (1..=MAX_ACCOUNT_BYTES).contains(&account.len()))
                .map(|account| Self::Account(account.into()))
                .ok_or(Status::BadRequest),
            Some((_, count)) => match count.parse() {
                Ok(count @ 1..=MAX_SLOWEST) => Ok(Self::Sessions(Selection::Slowest(count))),
                _ => Err(Status::BadRequest),
            },
        }
    }
}

/// The first `session` or `addr` counts. Unknown names are ignored.
fn trace_target(query: &str) -> Result<TraceTarget, Status> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let mut targets = pairs.filter_map(|(name, value)| match name {
        "session" => Some(value.parse().ok().map(TraceTarget::Session)),
        "addr" => Some(value.parse().ok().map(TraceTarget::Address)),
        _ => None,
    });
    targets.next().flatten().ok_or(Status::BadRequest)
}

/// A text with `%` and two hexadecimal digits for each byte that a URL cannot have. `None` if it is not UTF-8 then.
fn decode(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        let digit = |at: usize| char::from(digits.as_bytes()[at]).to_digit(16);
        bytes.push((16 * digit(0)? + digit(1)?) as u8);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

/// Whether a browser says that a page of another site has made the request. The page cannot read the response, but
/// could have each browser that shows it begin traces.
fn is_cross_site(headers: &[httparse::Header<'_>]) -> bool {
    let mut headers = headers.iter();
    headers.any(|header| {
        let is_own = [&b"same-origin"[..], b"none"].contains(&header.value);
        header.name.eq_ignore_ascii_case("sec-fetch-site") && !is_own
    })
}

/// The `Host` of a request. Two are a bad request.
fn host(headers: &[httparse::Header<'_>]) -> Result<Option<Host>, Status> {
    let mut hosts = (headers.iter()).filter(|header| header.name.eq_ignore_ascii_case("host"));
    match (hosts.next(), hosts.next()) {
        (None, _) => Ok(None),
        (Some(host), None) => {
            let host = std::str::from_utf8(host.value).ok();
            let host = host.and_then(|host| host.trim().parse().ok());
            host.map(Some).ok_or(Status::BadRequest)
        }
        _ => Err(Status::BadRequest),
    }
}

/// Path and query of a request's target. The target may be a whole URL.
fn path_and_query(target: &str) -> (&str, &str) {
    let target = match target.strip_prefix("http://") {
        // A query may follow the host without a path.
        Some(rest) => rest.find(['/', '?', '#']).map_or("", |at| &rest[at..]),
        None => target,
    };
    let target = target.split('#').next().unwrap_or(target);
    match target.split_once('?').unwrap_or((target, "")) {
        ("", query) => ("/", query),
        other => other,
    }
}

impl Status {
    /// Number and name, for example `404 Not Found`.
    pub const fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::BadRequest => "400 Bad Request",
            Self::CrossSite => "403 Forbidden",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed",
            Self::Timeout => "408 Request Timeout",
            Self::Misdirected => "421 Misdirected Request",
            Self::HeadTooLarge => "431 Request Header Fields Too Large",
            Self::Unavailable => "503 Service Unavailable",
        }
    }

    /// One line that says what is wrong. `host_hint` says how to allow a host.
    pub fn text(self, host_hint: &str) -> String {
        match self {
            Self::Misdirected => {
                format!("{}: this Host is not allowed, {host_hint}\n", self.line())
            }
            Self::CrossSite => format!("{}: asked by a page of another site\n", self.line()),
            _ => format!("{}\n", self.line()),
        }
    }

    /// The head of a response whose body has this type and length.
    pub fn head(self, content_type: &str, body_bytes: usize) -> String {
        let mut head = format!(
            "HTTP/1.1 {}\r\n\
             Content-Type: {content_type}\r\n\
             Content-Length: {body_bytes}\r\n\
             Cache-Control: no-store\r\n\
             Content-Security-Policy: {POLICY}\r\n\
             X-Content-Type-Options: nosniff\r\n\
             Connection: close\r\n",
            self.line()
        );
        // Writing to a string does not fail.
        let _ = match self {
            Self::MethodNotAllowed => head.write_str("Allow: GET, HEAD\r\n"),
            Self::Unavailable => head.write_str("Retry-After: 1\r\n"),
            _ => Ok(()),
        };
        head.push_str("\r\n");
        head
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::allowed_hosts::AllowedHosts;

    fn parse(text: &str) -> Result<Option<Request>, Status> {
        let hosts = AllowedHosts::default();
        Request::parse(text.as_bytes(), |host| hosts.contains(host, None))
    }

    #[test]
    fn the_host_is_checked_first() {
        for (status, line) in [
            (None, "HTTP/1.0\r\n"),
            (None, "HTTP/1.1\r\nhOST:\tLOCALHOST \r\n"),
            (None, "HTTP/1.0\r\nHost: [::1]:9100\r\n"),
            (Some(Status::BadRequest), "HTTP/1.1\r\n"),
            (Some(Status::BadRequest), "HTTP/1.1\r\nHost:\r\n"),
            (Some(Status::BadRequest), "HTTP/1.1\r\nHost: a b\r\n"),
            (
                Some(Status::BadRequest),
                "HTTP/1.1\r\nHost: localhost\r\nhost: localhost\r\n",
            ),
            (
                Some(Status::BadRequest),
                "HTTP/1.0\r\nHost: localhost\r\nHost: evil.example\r\n",
            ),
            (
                Some(Status::Misdirected),
                "HTTP/1.1\r\nHost: evil.example\r\n",
            ),
            (
                Some(Status::Misdirected),
                "HTTP/1.0\r\nHost: evil.example:9100\r\n",
            ),
        ] {
            for (path, found) in [("/metrics", None), ("/nothing", Some(Status::NotFound))] {
                let outcome = parse(&format!("GET {path} {line}\r\n"));
                assert_eq!(outcome.err(), status.or(found), "{path} {line:?}");
            }
        }
        let hint = "--admin-host NAME allows it";
        assert!(Status::Misdirected.text(hint).contains("--admin-host"));
        assert!(!Status::NotFound.text(hint).contains("--admin-host"));
    }

    #[test]
    fn page_of_another_site_gets_only_what_costs_no_work() {
        let get = |path: &str, site: &str| {
            let site = format!("sec-Fetch-Site: {site}");
            parse(&format!(
                "GET {path} HTTP/1.1\r\nHost: localhost\r\n{site}\r\n\r\n"
            ))
        };
        for path in ["/trace?addr=10.0.0.1", "/sessions", "/sessions?account=ada"] {
            for site in ["cross-site", "same-site", "what"] {
                assert_eq!(get(path, site), Err(Status::CrossSite), "{path} {site}");
            }
            for site in ["same-origin", "none"] {
                assert!(get(path, site).is_ok(), "{path} {site}");
            }
        }
        // A link on another page may lead here.
        for path in ["/", "/metrics", "/healthz", "/nodes"] {
            assert!(get(path, "cross-site").is_ok(), "{path}");
        }
    }

    #[test]
    fn each_target_has_its_route() {
        let get = |route| {
            Ok(Some(Request {
                route,
                is_head: false,
            }))
        };
        assert_eq!(
            parse("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            get(Route::Metrics)
        );
        assert_eq!(
            parse("GET /healthz?from=here HTTP/1.0\r\nHost: localhost\r\n\r\n"),
            get(Route::Health)
        );
        assert_eq!(
            parse("GET http://host:1/sessions HTTP/1.1\nHost: localhost\n\n"),
            get(Route::Sessions(Selection::All))
        );
        assert_eq!(
            parse("GET /nodes HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            get(Route::Nodes)
        );
        for target in ["/", "/?x", "http://host", "http://host?x=/metrics", "/#top"] {
            let text = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            assert_eq!(parse(&text), get(Route::Page), "{target}");
        }
        for (query, selection) in [
            ("?slowest=1", Selection::Slowest(1)),
            ("?a=b&slowest=100&slowest=x", Selection::Slowest(100)),
            ("?", Selection::All),
            ("?slowest", Selection::All),
            ("?fastest=0&&=#slowest=0", Selection::All),
        ] {
            let text = format!("GET /sessions{query} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            assert_eq!(parse(&text), get(Route::Sessions(selection)), "{query}");
        }
        for (query, target) in [
            (
                "session=0.17-1",
                TraceTarget::Session("0.17-1".parse().unwrap()),
            ),
            (
                "x&session=4294967313",
                TraceTarget::Session("0.17-1".parse().unwrap()),
            ),
            (
                "addr=10.0.0.1&session=x",
                TraceTarget::Address([10, 0, 0, 1].into()),
            ),
            ("addr=::1", TraceTarget::Address("::1".parse().unwrap())),
        ] {
            let text = format!("GET /trace?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            assert_eq!(parse(&text), get(Route::Trace(target)), "{query}");
        }
        for query in [
            "",
            "?",
            "?session",
            "?session=",
            "?session=0.17-0x1",
            "?addr=host",
            "?addr=1.2.3.4:7",
        ] {
            let text = format!("GET /trace{query} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            assert_eq!(parse(&text), Err(Status::BadRequest), "{query}");
        }
        for (query, account) in [
            ("ada", "ada"),
            ("a%20b%25&slowest=x", "a b%"),
            ("a+b%C3%a4", "a+bä"),
        ] {
            let text = format!("GET /sessions?account={query} HTTP/1.0\r\n\r\n");
            assert_eq!(parse(&text), get(Route::Account(account.into())), "{query}");
        }
        let head = parse("HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .unwrap()
            .unwrap();
        assert!(head.is_head);
    }

    #[test]
    fn invalid_requests_are_refused_with_their_status() {
        for (status, text) in [
            (
                Status::NotFound,
                "GET // HTTP/1.1\r\nHost: localhost\r\n\r\n",
            ),
            (
                Status::NotFound,
                "GET /live.html HTTP/1.1\r\nHost: localhost\r\n\r\n",
            ),
            (
                Status::NotFound,
                "GET http://host/x HTTP/1.1\r\nHost: localhost\r\n\r\n",
            ),
            (
                Status::NotFound,
                "POST /metrics/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
            ),
            (
                Status::MethodNotAllowed,
                "POST / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            ),
            (
                Status::MethodNotAllowed,
                "POST /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
            ),
            (
                Status::MethodNotAllowed,
                "BREW /sessions HTTP/1.1\r\nHost: localhost\r\n\r\n",
            ),
            (Status::BadRequest, "GET /metrics\r\n\r\n"),
            (Status::BadRequest, "PRI * HTTP/2.0\r\n\r\n"),
            (Status::BadRequest, "\x16\x03\x01\x02\0\x01\0"),
            (
                Status::BadRequest,
                "GET /metrics HTTP/1.1\r\nno colon\r\n\r\n",
            ),
        ] {
            assert_eq!(parse(text), Err(status), "{text:?}");
        }
        for count in [
            "",
            "0",
            "101",
            "-1",
            "1e2",
            "all",
            "99999999999999999999",
            "%31",
        ] {
            let text = format!("GET /sessions?slowest={count} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            assert_eq!(parse(&text), Err(Status::BadRequest), "{count:?}");
        }
        let too_long = "x".repeat(MAX_ACCOUNT_BYTES + 1);
        for account in ["", "%", "%2", "%zz", "%ff", "a%+1", "%4ä", &too_long] {
            let text = format!("GET /sessions?account={account} HTTP/1.0\r\n\r\n");
            assert_eq!(parse(&text), Err(Status::BadRequest), "{account:?}");
        }
        let many = "a: b\r\n".repeat(MAX_HEADERS + 1);
        let many = format!("GET /metrics HTTP/1.1\r\n{many}\r\n");
        assert_eq!(parse(&many), Err(Status::HeadTooLarge));
        let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(MAX_HEAD_BYTES));
        assert_eq!(parse(&long), Err(Status::HeadTooLarge));
    }

    #[test]
    fn a_head_without_its_end_is_incomplete() {
        let text = "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n\r\n";
        for end in 0..text.len() {
            assert_eq!(parse(&text[..end]), Ok(None), "{:?}", &text[..end]);
        }
        assert!(parse(text).unwrap().is_some());
    }

    #[test]
    fn heads_of_responses() {
        assert_eq!(
            Status::Ok.head("text/plain", 3),
            format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\
                 Cache-Control: no-store\r\nContent-Security-Policy: {POLICY}\r\n\
                 X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
            )
        );
        let refused = Status::MethodNotAllowed.head("text/plain", 0);
        assert!(refused.ends_with("\r\nAllow: GET, HEAD\r\n\r\n"));
    }
}
