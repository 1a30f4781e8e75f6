//! What went wrong, as a person is told. One total match each, so that no failure comes without its words.

use std::borrow::Cow;

use http::StatusCode;

use super::view::in_seconds;

/// A failure that the gate answers by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// 400: the request can't be understood.
    BadRequest,
    /// 403: the request came from another site's page, or may not do this.
    Forbidden,
    /// 404: nothing is at this reserved path.
    NotFound,
    /// 405: this reserved path doesn't take the method.
    MethodNotAllowed,
    /// 408: the request's body stopped coming.
    RequestTimeout,
    /// 413: the request's body is too large.
    TooLarge,
    /// 429: too many requests from one pass.
    TooManyRequests {
        /// Seconds after which it may ask again.
        retry_s: u32,
    },
    /// 500: a fault of the gate.
    Internal,
    /// 502: the site can't be reached, or answered what isn't HTTP.
    BadGateway,
    /// 503: it can't be done now.
    Unavailable,
    /// 504: the site didn't answer in time.
    GatewayTimeout,
}

impl FailureKind {
    /// Every kind, with 0 for seconds.
    pub const ALL: [Self; 11] = [
        Self::BadRequest,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::TooLarge,
        Self::TooManyRequests { retry_s: 0 },
        Self::Internal,
        Self::BadGateway,
        Self::Unavailable,
        Self::GatewayTimeout,
    ];

    /// The status of its answer.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooManyRequests { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::BadGateway => StatusCode::BAD_GATEWAY,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::GatewayTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// What it is, in a few words without a full stop.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::BadRequest => "The request could not be understood",
            Self::Forbidden => "This is not allowed",
            Self::NotFound => "There is nothing here",
            Self::MethodNotAllowed => "This cannot be done here",
            Self::RequestTimeout => "What you sent did not arrive in time",
            Self::TooLarge => "What you sent is too large",
            Self::TooManyRequests { .. } => "Too many requests",
            Self::Internal => "Something went wrong on our side",
            Self::BadGateway => "The site cannot be reached",
            Self::Unavailable => "This cannot be done just now",
            Self::GatewayTimeout => "The site did not answer in time",
        }
    }

    /// What it means and what to do. Where a form may have been on its way, it doesn't claim to know how far it came.
    #[must_use]
    pub fn text(self) -> Cow<'static, str> {
        let text = match self {
            Self::BadRequest => "Something was wrong with the address or with what your browser sent. Go back, and try again.",
            Self::Forbidden => "The request came from another site’s page, or without what it needs. Open the site itself, and try again.",
            Self::NotFound => "Please check the address.",
            Self::MethodNotAllowed => "This address does not take what was sent to it. Go back, and try again.",
            Self::RequestTimeout => "The connection may be slow. Nothing of it has reached the site. Go back, and send it again.",
            Self::TooLarge => "It has not reached the site. Go back, and send less at once.",
            Self::TooManyRequests { retry_s } => {
                let wait = in_seconds(retry_s as usize);
                return format!(
                    "Your browser has asked for very many pages in a short time. Your place is kept. Wait {wait}, then try again."
                )
                .into();
            }
            Self::Internal => "It is not your fault. If you were sending a form, check whether it has arrived before you send it again.",
            Self::BadGateway | Self::GatewayTimeout => {
                "It may be back in a moment. If you were sending a form, check whether it has arrived before you send it again."
            }
            Self::Unavailable => "Please try again in a few minutes.",
        };
        text.into()
    }

    /// Whether asking for the same address again may help.
    #[must_use]
    pub const fn may_pass(self) -> bool {
        match self {
            Self::TooManyRequests { .. } | Self::Internal | Self::BadGateway | Self::Unavailable | Self::GatewayTimeout => true,
            Self::BadRequest | Self::Forbidden | Self::NotFound | Self::MethodNotAllowed | Self::RequestTimeout | Self::TooLarge => false,
        }
    }
}
