//! gRPC-Web: the calls of pages in browsers, from the origins that the operator has listed.
//!
//! A browser asks by OPTIONS first, and lets a page read an answer only if its headers allow that.
//! tonic-web translates the frames; this module says who may ask and which headers go with an answer.

use std::{convert::Infallible, sync::Arc};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use tonic::body::Body;
use tonic_web::GrpcWebLayer;
use tower::{Layer as _, Service};

/// The kinds of bodies that gRPC-Web has, as tonic-web reads them.
const KINDS: [&str; 4] = [
    "application/grpc-web",
    "application/grpc-web+proto",
    "application/grpc-web-text",
    "application/grpc-web-text+proto",
];
/// The headers of a request that a page may set.
const ALLOWED_HEADERS: &str = "authorization,content-type,x-grpc-web,x-user-agent,grpc-timeout";
/// The headers of an answer that a page may read, beside those that it always may.
const EXPOSED_HEADERS: &str = "grpc-status,grpc-message,grpc-status-details-bin";
/// The seconds for which a browser may remember the answer to its OPTIONS: the most that Chromium
/// does.
const REMEMBERED: &str = "7200";

/// The origins whose pages may call, in the form in which browsers send them. None of them is the usual
/// case, in which there is no gRPC-Web.
#[derive(Debug, Clone, Default)]
pub struct Origins(Arc<[String]>);

impl Origins {
    /// These origins, each as browsers send it: `https://shop.example`, with a port that is not usual
    /// for the scheme.
    pub fn new(origins: &[String]) -> Self {
        Self(origins.into())
    }

    /// True if there is no gRPC-Web.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The listed origin that a request names as its only one.
    pub(super) fn of(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let mut named = headers.get_all(header::ORIGIN).iter();
        let (Some(origin), None) = (named.next(), named.next()) else {
            return None;
        };
        let is_listed = self.0.iter().any(|listed| listed.as_bytes() == origin);
        is_listed.then(|| origin.clone())
    }
}

/// True if a request is a call by gRPC-Web, or a browser's question if that may be made.
pub(super) fn is_web(head: &Parts) -> bool {
    is_preflight(head) || is_call(&head.headers)
}

pub(super) fn is_preflight(head: &Parts) -> bool {
    let asks = header::ACCESS_CONTROL_REQUEST_METHOD;
    head.method == Method::OPTIONS && head.headers.contains_key(asks)
}

fn is_call(headers: &HeaderMap) -> bool {
    let mut kinds = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(kind), None) = (kinds.next(), kinds.next()) else {
        return false;
    };
    KINDS.iter().any(|known| known.as_bytes() == kind)
}

/// The answer to a listed origin's question.
pub(super) fn permission(origin: HeaderValue) -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    let headers = answer.headers_mut();
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "POST"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS),
        (header::ACCESS_CONTROL_MAX_AGE, REMEMBERED),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    permit(headers, origin);
    answer
}

/// Lets pages of this origin, and of no other, read an answer.
fn permit(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    depends_on_origin(headers);
}

/// Tells caches that another origin would get another answer.
pub(super) fn depends_on_origin(headers: &mut HeaderMap) {
    headers.append(header::VARY, HeaderValue::from_static("origin"));
}

/// Makes a gRPC call of a call by gRPC-Web, lets `inner` answer it, and translates the answer. `inner` is
/// called before this returns.
pub(super) fn call<B, S>(
    origin: HeaderValue,
    request: Request<B>,
    inner: S,
) -> impl Future<Output = Result<Response<Body>, Infallible>> + Send
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + std::fmt::Display,
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send,
{
    let answered = GrpcWebLayer::new().layer(inner).call(request);
    async move {
        let Ok(mut answer) = answered.await;
        let headers = answer.headers_mut();
        let exposed = HeaderValue::from_static(EXPOSED_HEADERS);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        permit(headers, origin);
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins() -> Origins {
        Origins::new(&[
            "https://shop.example".to_owned(),
            "http://localhost:3000".to_owned(),
        ])
    }

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn an_origin_is_listed_only_as_a_whole() {
        let table = [
            ("https://shop.example", true),
            ("http://localhost:3000", true),
            ("http://shop.example", false),
            ("https://shop.example:8443", false),
            ("https://shop.example/", false),
            ("https://SHOP.example", false),
            ("https://shop.example.evil.test", false),
            ("https://evil.shop.example", false),
            ("http://localhost", false),
            ("null", false),
            ("", false),
        ];
        for (origin, expected) in table {
            let found = origins().of(&headers(&[("origin", origin)]));
            assert_eq!(found.is_some(), expected, "{origin}");
        }
        let good = ("origin", "https://shop.example");
        assert!(origins().of(&headers(&[])).is_none());
        assert!(origins().of(&headers(&[good, good])).is_none());
        assert!(Origins::default().of(&headers(&[good])).is_none());
    }

    #[test]
    fn a_call_is_of_one_of_four_kinds() {
        for kind in KINDS {
            assert!(is_call(&headers(&[("content-type", kind)])), "{kind}");
        }
        let others = [
            "application/grpc",
            "application/grpc-web+json",
            "text/plain",
        ];
        for kind in others {
            assert!(!is_call(&headers(&[("content-type", kind)])), "{kind}");
        }
        let twice = [("content-type", KINDS[0]), ("content-type", KINDS[0])];
        assert!(!is_call(&headers(&twice)));
    }
}
