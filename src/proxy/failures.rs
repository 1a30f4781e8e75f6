//! The answers to requests that come to nothing, each counted.

use std::error::Error;
use std::io::ErrorKind;

use http::StatusCode;
use http::request::Parts;

use super::Worker;
use super::exchange::Exchange;
use super::respond::{self, Answer, status};
use super::state::Phase;
use super::told::{Told, told};
use crate::gate::Regime;
use crate::metrics::{Count, Refusal, Shard};
use crate::page::{FailureKind, Pages};
use crate::rules::headers::check::BadRequest;
use crate::rules::negotiate::{self, Form};
use crate::tls::client::HandshakeError;
use crate::upstream::{ConnectError, Failure};

/// The answer to a request that can be read in two ways, or in none.
pub(super) fn refuse(worker: &Worker, exchange: &Exchange, regime: &Regime, parts: &Parts, bad: BadRequest) -> Answer {
    let refusal = match bad {
        BadRequest::HostMissing | BadRequest::HostRepeated | BadRequest::HostInvalid | BadRequest::HostMismatch => Refusal::Host,
        BadRequest::SchemeUnsupported | BadRequest::TargetInvalid | BadRequest::TargetBytes => Refusal::Target,
        BadRequest::MethodUnsupported => Refusal::NotImplemented,
        BadRequest::LengthInvalid => Refusal::ContentLength,
        BadRequest::LengthAndCoding | BadRequest::CodingInvalid | BadRequest::CodingUnsupported => Refusal::TransferEncoding,
        BadRequest::NameInvalid => Refusal::BadRequest,
    };
    worker.shard.count(Count::Refused(refusal));
    let mut answer = respond::failure(&regime.pages, FailureKind::BadRequest, negotiate::form(&parts.headers), status::REQUEST);
    *answer.status_mut() = bad.status();
    exchange.end_in_doubt(&mut answer);
    answer
}

/// Of HTTP/2: over HTTP/1 it is not read as a request.
pub(super) fn head_too_large(worker: &Worker, regime: &Regime, parts: &Parts) -> Answer {
    worker.shard.count(Count::Refused(Refusal::HeadTooLarge));
    let mut answer = respond::failure(&regime.pages, FailureKind::BadRequest, negotiate::form(&parts.headers), status::REQUEST);
    *answer.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    answer
}

/// The answer to a request whose body did not come whole.
pub(super) fn body_failed(worker: &Worker, exchange: &Exchange, regime: &Regime, form: Form, error: &dyn Error) -> Answer {
    let timed_out = exchange.has_stalled();
    exchange.enter(Phase::Busy);
    let (kind, refusal) =
        if timed_out { (FailureKind::RequestTimeout, Refusal::BodyTimeout) } else { (FailureKind::BadRequest, Refusal::BadRequest) };
    tracing::debug!(%error, "a request body broke off");
    worker.shard.count(Count::Refused(refusal));
    let mut answer = respond::failure(&regime.pages, kind, form, status::REQUEST);
    exchange.end_in_doubt(&mut answer);
    answer
}

/// The one place that turns a failure of the upstream into an answer.
pub(super) fn failed(worker: &Worker, exchange: &Exchange, regime: &Regime, form: Form, failure: &Failure) -> Answer {
    let (kind, proxy_status) = match failure {
        Failure::Connect(ConnectError::Timeout | ConnectError::Awaited) => (FailureKind::GatewayTimeout, status::CONNECT_TIMEOUT),
        Failure::Connect(ConnectError::Socket(error)) if error.kind() == ErrorKind::TimedOut => {
            (FailureKind::GatewayTimeout, status::CONNECT_TIMEOUT)
        }
        Failure::Connect(ConnectError::Socket(error)) if error.kind() == ErrorKind::ConnectionRefused => {
            (FailureKind::BadGateway, status::CONNECT)
        }
        Failure::Connect(ConnectError::Socket(_)) => (FailureKind::BadGateway, status::UNAVAILABLE),
        Failure::Connect(ConnectError::NoAddress) => (FailureKind::BadGateway, status::DNS),
        Failure::Connect(ConnectError::Tls(HandshakeError::Certificate(_))) => (FailureKind::BadGateway, status::TLS_CERTIFICATE),
        Failure::Connect(ConnectError::Tls(HandshakeError::Alert(_))) => (FailureKind::BadGateway, status::TLS_ALERT),
        Failure::Connect(ConnectError::Tls(HandshakeError::Protocol(_))) => (FailureKind::BadGateway, status::TLS_PROTOCOL),
        Failure::Connect(ConnectError::Tls(HandshakeError::Broken(_))) => (FailureKind::BadGateway, status::TERMINATED),
        Failure::Connect(ConnectError::Http2(error)) if error.is_io() => (FailureKind::BadGateway, status::TERMINATED),
        Failure::Connect(ConnectError::Http2(_)) => (FailureKind::BadGateway, status::PROTOCOL),
        Failure::Timeout => (FailureKind::GatewayTimeout, status::TIMEOUT),
        Failure::Upstream(error) if error.is_protocol() => (FailureKind::BadGateway, status::PROTOCOL),
        Failure::Upstream(_) => (FailureKind::BadGateway, status::BROKEN),
        Failure::Switched => (FailureKind::BadGateway, status::PROTOCOL),
        Failure::Client(error) => return body_failed(worker, exchange, regime, form, error),
    };
    respond::failure(&regime.pages, kind, form, proxy_status)
}

/// The answer when answering has panicked.
pub(super) fn panicked(worker: &Worker) -> (Answer, Told) {
    own_fault(&worker.shard, &worker.gate.regime().pages)
}

fn own_fault(shard: &Shard, pages: &Pages) -> (Answer, Told) {
    shard.count(Count::Refused(Refusal::Internal));
    let mut answer = respond::failure(pages, FailureKind::Internal, Form::Text, status::INTERNAL);
    respond::close(&mut answer);
    (answer, told("refused", Refusal::Internal.label()))
}

#[cfg(test)]
mod tests {
    use http::HeaderName;
    use http::header::{CACHE_CONTROL, CONNECTION};

    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn who_met_a_fault_of_the_gate_is_told_so_and_it_is_counted() {
        let metrics = Metrics::new(1).unwrap();
        let (answer, told) = own_fault(&metrics.shard(0), &Pages::built_in().unwrap());
        let header = |name: HeaderName| answer.headers().get(name).map(|value| value.to_str().unwrap());
        assert_eq!(
            (answer.status(), header(status::NAME)),
            (StatusCode::INTERNAL_SERVER_ERROR, Some("tidegate; error=proxy_internal_error"))
        );
        assert_eq!((header(CONNECTION), header(CACHE_CONTROL)), (Some("close"), Some("no-store")));
        assert_eq!((told.verdict, told.reason), ("refused", "internal"));
        for &refusal in Refusal::ALL {
            assert_eq!(metrics.total(Count::Refused(refusal)), u64::from(refusal == Refusal::Internal), "{refusal:?}");
        }
    }
}
