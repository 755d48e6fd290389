//! The requests that may reach a handler: gRPC by POST over HTTP/2, and gRPC-Web of listed origins. If
//! the server trusts anyone, a web page's requests may not.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header, request::Parts};

use super::web::{self, Origins};

/// The peers that a listener trusts without a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Nobody.
    Tokens,
    /// Anyone who reaches it. A browser reaches this machine's own addresses too, for any page (and by
    /// any name, once that is rebound), so its requests have to be told apart.
    Anyone,
}

/// The reason why a request reaches no handler, in HTTP's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotServed {
    pub status: StatusCode,
    pub text: &'static str,
}

impl NotServed {
    /// Its status in the figures.
    pub(super) fn code(&self) -> &'static str {
        match self.status {
            StatusCode::NOT_FOUND => "HTTP 404",
            StatusCode::METHOD_NOT_ALLOWED => "HTTP 405",
            StatusCode::UNSUPPORTED_MEDIA_TYPE => "HTTP 415",
            _ => "HTTP 403",
        }
    }
}

/// A request that may go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Served {
    /// A call by gRPC.
    Grpc,
    /// A call by gRPC-Web, from this origin.
    Web(HeaderValue),
    /// A browser's question if a page of this origin may call.
    Preflight(HeaderValue),
}

const fn not_served(status: StatusCode, text: &'static str) -> Result<Served, NotServed> {
    Err(NotServed { status, text })
}

/// Tells the protocol of a request that may go on.
pub(super) fn check(
    head: &Parts,
    trust: Trust,
    origins: &Origins,
    is_tcp: bool,
) -> Result<Served, NotServed> {
    // Anonymous callers and pages do not go together, whatever is listed.
    if trust == Trust::Tokens && !origins.is_empty() && web::is_web(head) {
        return check_web(head, origins);
    }
    if head.version != Version::HTTP_2 {
        return not_served(StatusCode::NOT_FOUND, "this port speaks gRPC over HTTP/2\n");
    }
    if trust == Trust::Anyone {
        if head.headers.contains_key(header::ORIGIN) {
            return not_served(StatusCode::FORBIDDEN, "not for web pages\n");
        }
        if is_tcp && !hosts(head).all(is_loopback) {
            let text = "an anonymous server answers to names of this machine alone\n";
            return not_served(StatusCode::FORBIDDEN, text);
        }
    }
    if head.method != Method::POST {
        return not_served(StatusCode::METHOD_NOT_ALLOWED, "a gRPC call is a POST\n");
    }
    match is_grpc(&head.headers) {
        true => Ok(Served::Grpc),
        false => not_served(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the content type has to be application/grpc\n",
        ),
    }
}

/// Tells if a page's request comes from a listed origin.
fn check_web(head: &Parts, origins: &Origins) -> Result<Served, NotServed> {
    if ![Version::HTTP_11, Version::HTTP_2].contains(&head.version) {
        return not_served(
            StatusCode::NOT_FOUND,
            "gRPC-Web goes over HTTP/1.1 or HTTP/2\n",
        );
    }
    let Some(origin) = origins.of(&head.headers) else {
        return not_served(StatusCode::FORBIDDEN, "the origin is not listed\n");
    };
    if web::is_preflight(head) {
        return Ok(Served::Preflight(origin));
    }
    match head.method == Method::POST {
        true => Ok(Served::Web(origin)),
        false => not_served(StatusCode::METHOD_NOT_ALLOWED, "a gRPC call is a POST\n"),
    }
}

/// True if the content type is `application/grpc`, or that with a codec: `application/grpc+proto`.
fn is_grpc(headers: &HeaderMap) -> bool {
    const GRPC: &str = "application/grpc";
    let mut kinds = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(kind), None) = (kinds.next(), kinds.next()) else {
        return false;
    };
    let Some((start, rest)) = kind
        .to_str()
        .ok()
        .and_then(|kind| kind.split_at_checked(GRPC.len()))
    else {
        return false;
    };
    start.eq_ignore_ascii_case(GRPC) && (rest.is_empty() || rest.starts_with(['+', ';']))
}

/// The hosts that a request names: in its URI, and in the header beside it.
fn hosts(head: &Parts) -> impl Iterator<Item = Option<&str>> {
    let authority = head
        .uri
        .authority()
        .map(|authority| Some(authority.as_str()));
    let named = head.headers.get_all(header::HOST).iter();
    authority
        .into_iter()
        .chain(named.map(|host| host.to_str().ok()))
}

/// True if a host, with or without a port, is this machine's own loopback.
fn is_loopback(host: Option<&str>) -> bool {
    let Some(host) = host else { return false };
    let Ok(authority) = host.parse::<http::uri::Authority>() else {
        return false;
    };
    if authority.as_str().contains('@') {
        return false;
    }
    let host = authority.host();
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    match bracketed {
        Some(address) => address.parse().is_ok_and(|it: Ipv6Addr| it.is_loopback()),
        None => {
            host.eq_ignore_ascii_case("localhost")
                || host.parse().is_ok_and(|it: Ipv4Addr| it.is_loopback())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(version: Version, method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder()
            .version(version)
            .method(method)
            .uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn status(head: &Parts, trust: Trust, is_tcp: bool) -> u16 {
        let checked = check(head, trust, &Origins::default(), is_tcp);
        checked.map_or_else(|refused| refused.status.as_u16(), |_| 200)
    }

    #[test]
    fn grpc_web_is_served_to_listed_origins_alone_and_changes_nothing_else() {
        let origins = Origins::new(&["https://shop.example".to_owned()]);
        let web = ("content-type", "application/grpc-web+proto");
        let grpc = ("content-type", "application/grpc");
        let good = ("origin", "https://shop.example");
        let evil = ("origin", "https://evil.example");
        let asks = ("access-control-request-method", "POST");
        let table: [(Version, &str, &[_], u16); 15] = [
            (Version::HTTP_11, "POST", &[web, good], 200),
            (Version::HTTP_2, "POST", &[web, good], 200),
            (Version::HTTP_11, "OPTIONS", &[asks, good], 200),
            (Version::HTTP_2, "OPTIONS", &[asks, good], 200),
            (Version::HTTP_10, "POST", &[web, good], 404),
            (Version::HTTP_11, "POST", &[web, evil], 403),
            (Version::HTTP_2, "POST", &[web, evil], 403),
            (Version::HTTP_2, "OPTIONS", &[asks, evil], 403),
            (Version::HTTP_2, "POST", &[web], 403),
            (Version::HTTP_11, "OPTIONS", &[asks], 403),
            (Version::HTTP_2, "GET", &[web, good], 405),
            (Version::HTTP_2, "OPTIONS", &[good], 405),
            (Version::HTTP_11, "POST", &[grpc, good], 404),
            (Version::HTTP_11, "GET", &[], 404),
            (Version::HTTP_2, "POST", &[grpc], 200),
        ];
        for (version, method, headers, expected) in table {
            let head = head(version, method, "http://localhost/x", headers);
            let told = |trust| {
                let checked = check(&head, trust, &origins, true);
                checked.map_or_else(|refused| refused.status.as_u16(), |_| 200)
            };
            assert_eq!(
                told(Trust::Tokens),
                expected,
                "{version:?} {method} {headers:?}"
            );
            let is_a_page = headers.contains(&web) || headers.contains(&asks);
            assert!(
                !is_a_page || told(Trust::Anyone) >= 400,
                "{method} {headers:?}"
            );
        }
    }

    #[test]
    fn only_grpc_by_post_over_http_2_reaches_a_handler() {
        let table = [
            (Version::HTTP_2, "POST", Some("application/grpc"), 200),
            (Version::HTTP_2, "POST", Some("application/grpc+proto"), 200),
            (Version::HTTP_2, "POST", Some("application/grpc+json"), 200),
            (Version::HTTP_2, "POST", Some("Application/GRPC"), 200),
            (
                Version::HTTP_2,
                "POST",
                Some("application/grpc;charset=utf-8"),
                200,
            ),
            (Version::HTTP_2, "POST", Some("application/grpc-web"), 415),
            (
                Version::HTTP_2,
                "POST",
                Some("application/grpc-web+proto"),
                415,
            ),
            (Version::HTTP_2, "POST", Some("application/grpcs"), 415),
            (Version::HTTP_2, "POST", Some("application/json"), 415),
            (Version::HTTP_2, "POST", Some("text/plain"), 415),
            (Version::HTTP_2, "POST", None, 415),
            (Version::HTTP_2, "GET", Some("application/grpc"), 405),
            (Version::HTTP_2, "PUT", Some("application/grpc"), 405),
            (Version::HTTP_2, "OPTIONS", None, 405),
            (Version::HTTP_11, "POST", Some("application/grpc"), 404),
            (Version::HTTP_11, "GET", None, 404),
            (Version::HTTP_10, "GET", None, 404),
        ];
        for (version, method, kind, expected) in table {
            let headers: Vec<_> = kind
                .into_iter()
                .map(|kind| ("content-type", kind))
                .collect();
            let head = head(version, method, "http://localhost/readyz", &headers);
            for trust in [Trust::Tokens, Trust::Anyone] {
                assert_eq!(status(&head, trust, true), expected, "{method} {kind:?}");
            }
        }
        let twice = [
            ("content-type", "application/grpc"),
            ("content-type", "text/plain"),
        ];
        let head = head(Version::HTTP_2, "POST", "/x", &twice);
        assert_eq!(status(&head, Trust::Tokens, true), 415);
    }

    #[test]
    fn a_server_with_an_anonymous_caller_refuses_web_pages_and_foreign_hosts() {
        let grpc = ("content-type", "application/grpc");
        let hosts = [
            ("localhost", 200),
            ("LocalHost:50051", 200),
            ("127.0.0.1:1", 200),
            ("127.8.9.10", 200),
            ("[::1]:50051", 200),
            ("rebound.evil.example", 403),
            ("localhost.evil.example:50051", 403),
            ("127.0.0.1.evil.example", 403),
            ("localhost@evil.example", 403),
            ("evil.example@localhost", 403),
            ("10.0.0.1", 403),
            ("0.0.0.0:50051", 403),
            ("[::2]", 403),
        ];
        for (host, expected) in hosts {
            let there = head(
                Version::HTTP_2,
                "POST",
                &format!("http://{host}/x"),
                &[grpc],
            );
            let beside = head(
                Version::HTTP_2,
                "POST",
                "http://localhost/x",
                &[grpc, ("host", host)],
            );
            for head in [there, beside] {
                assert_eq!(status(&head, Trust::Anyone, true), expected, "{host}");
                assert_eq!(
                    status(&head, Trust::Anyone, false),
                    200,
                    "a Unix socket: {host}"
                );
                assert_eq!(status(&head, Trust::Tokens, true), 200, "{host}");
            }
        }
        for origin in ["https://evil.example", "null", "http://localhost:3000"] {
            let page = head(Version::HTTP_2, "POST", "/x", &[grpc, ("origin", origin)]);
            assert_eq!(status(&page, Trust::Anyone, true), 403, "{origin}");
            assert_eq!(status(&page, Trust::Anyone, false), 403, "{origin}");
            assert_eq!(status(&page, Trust::Tokens, true), 200, "{origin}");
        }
    }
}
