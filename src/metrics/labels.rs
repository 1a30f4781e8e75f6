//! The closed sets of label values. A label that could take any other value does not exist.

/// Makes a plain enum whose every value has one literal label.
macro_rules! labels {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident => $label:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)+
        }

        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The value of the label, as it is scraped.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)+
                }
            }
        }
    };
}

labels! {
    /// `verdict` of `tidegate_requests_total`.
    VerdictLabel {
        /// The route is not gated.
        Open => "open",
        /// An invited or staff pass.
        Bypass => "bypass",
        /// Let in.
        Admit => "admit",
        /// Shown the waiting room.
        Wait => "wait",
        /// May enter, but no slot was free in time.
        Shed => "shed",
    }
}

labels! {
    /// `verdict` of `tidegate_observed_total`: what would have become of a request that went to the site in mode `observe`.
    ObservedLabel {
        /// The route is not gated.
        Open => "open",
        /// An invited or staff pass.
        Bypass => "bypass",
        /// Let in.
        Admit => "admit",
        /// Shown the waiting room.
        Wait => "wait",
        /// May enter, but no slot would have been free in time.
        Shed => "shed",
        /// 429: a pass over `session.rate`.
        Refused => "refused",
    }
}

labels! {
    /// `verdict` of `tidegate_newcomers_total`.
    NewcomerLabel {
        /// Let in at once.
        Admit => "admit",
        /// Shown the waiting room first; under `observe`, it would have been.
        Wait => "wait",
    }
}

labels! {
    /// `mode` of `tidegate_mode`.
    ModeLabel {
        /// The law decides.
        Auto => "auto",
        /// Everyone is let in.
        Open => "open",
        /// Nobody new is let in.
        Closed => "closed",
        /// The operator's probability.
        Fixed => "fixed",
        /// Decides and counts, and holds back nobody.
        Observe => "observe",
    }
}

labels! {
    /// `outcome` of `tidegate_upstream_outcomes_total`.
    OutcomeLabel {
        /// A good answer.
        Ok => "ok",
        /// A good answer, but slow.
        Slow => "slow",
        /// A status of 500 or above, or an answer that broke off.
        Error => "error",
        /// No answer within the response timeout.
        Timeout => "timeout",
        /// No connection to a server. Another may have had the request then, and counts as well.
        Connect => "connect",
        /// The visitor left first.
        Aborted => "aborted",
    }
}

labels! {
    /// `reason` of `tidegate_tokens_rejected_total`: why a pass or ticket that was shown is not taken for one.
    TokenRejection {
        /// Not in the form of a token.
        Malformed => "malformed",
        /// A layout that this release does not read.
        Version => "version",
        /// Signed by a key that is not in the keyring.
        UnknownKey => "unknown_key",
        /// The signature does not verify.
        Forged => "forged",
        /// A token of another kind in this place.
        Kind => "kind",
        /// Past its time, or idle for too long.
        Expired => "expired",
        /// Revoked by id, by batch, or issued before `not_before`.
        Revoked => "revoked",
        /// A ticket that was not seen for too long.
        Void => "void",
    }
}

labels! {
    /// `reason` of `tidegate_requests_refused_total`: requests that got no verdict.
    Refusal {
        /// 400: not HTTP, or a body that broke off.
        BadRequest => "bad_request",
        /// 400: no Host, several, or one that differs from the request target.
        Host => "host",
        /// 400: a request target in a form that the gate does not take.
        Target => "target",
        /// 400: a Content-Length that is no number, or stands there twice.
        ContentLength => "content_length",
        /// 400: a Transfer-Encoding in which `chunked` does not stand once and alone; 501: one with any other coding.
        TransferEncoding => "transfer_encoding",
        /// Closed: an HTTP/2 connection that made more work than its requests.
        H2Abuse => "h2_abuse",
        /// 403: a form of the gate's that another site's page has sent.
        Origin => "origin",
        /// 403: a code of an invitation that was sent in and is unknown, used, expired or withdrawn.
        Code => "code",
        /// 403: a link to have an address deleted that is not whole.
        Link => "link",
        /// 403: the form for an email address, asked for without a ticket that holds.
        Ticket => "ticket",
        /// 404: a reserved path that does not exist, or does nothing while `email_queue.enabled` is off.
        NotFound => "not_found",
        /// 405: a method that a reserved path does not take.
        Method => "method",
        /// Closed unanswered: a TLS handshake that failed. Scanners and old clients; many at once are a certificate that is not believed.
        Handshake => "tls_handshake",
        /// Closed unanswered: a TLS handshake that took longer than `limits.handshake_timeout`.
        HandshakeTimeout => "handshake_timeout",
        /// 408: the request head took longer than `limits.header_timeout`.
        HeaderTimeout => "header_timeout",
        /// 408: the request body used `limits.body_timeout` up: it stood still, or came slower than `limits.min_rate`.
        BodyTimeout => "body_timeout",
        /// 413: a body larger than a reserved path takes.
        BodyTooLarge => "body_too_large",
        /// 414: the request target is too long.
        UriTooLong => "uri_too_long",
        /// 429: a pass over `session.rate`.
        PassRate => "pass_rate",
        /// 429: too many codes of invitations that are none.
        GuessRate => "guess_rate",
        /// 429: too many wishes to have an address deleted.
        LeaveRate => "leave_rate",
        /// 431: the request head is larger than `limits.header_bytes`, or has too many fields.
        HeadTooLarge => "head_too_large",
        /// 501: CONNECT.
        NotImplemented => "not_implemented",
        /// 503: a WebSocket over `limits.upgrades`, or while the gate closes.
        Upgrades => "upgrades",
        /// 503: a good code of an invitation, and no room. It is not used up.
        NoRoom => "no_room",
        /// 503: what is known of invitations can't be read or written just now.
        Storage => "storage",
        /// A connection that could not be accepted, for want of descriptors or memory: it waits, and is tried again. Each try counts.
        Connections => "connections",
        /// Closed unanswered: over `limits.connections_per_client`, with more than half of `limits.connections` taken.
        ClientConnections => "client_connections",
        /// Closed unanswered: no PROXY header, or a faulty one, from a trusted proxy that has to send one.
        ProxyProtocol => "proxy_protocol",
        /// 500: the gate's own fault.
        Internal => "internal",
    }
}

labels! {
    /// `result` of `tidegate_upgrades_total`.
    UpgradeResult {
        /// The site has switched to WebSocket.
        Switched => "switched",
        /// It has answered otherwise, or not at all.
        Refused => "refused",
    }
}

labels! {
    /// `result` of `tidegate_config_reloads_total`.
    ReloadResult {
        /// The new policy is in force.
        Applied => "applied",
        /// The file was refused whole; the last good policy is in force.
        Rejected => "rejected",
    }
}

labels! {
    /// `reason` of `tidegate_emails_refused_total`.
    EmailRefusal {
        /// Not in the form of an address.
        Address => "address",
        /// The form came without a valid ticket.
        Ticket => "ticket",
        /// The form came from another site's page.
        Origin => "origin",
        /// Over `email_queue.posts_per_client`.
        ClientRate => "client_rate",
        /// Over `email_queue.addresses_per_ticket`.
        TicketRate => "ticket_rate",
        /// Could not be written down.
        Storage => "storage",
        /// `email_queue.enabled` is off.
        Disabled => "disabled",
    }
}

labels! {
    /// `result` of `tidegate_invitations_total`.
    InvitationResult {
        /// Taken by the mail server.
        Sent => "sent",
        /// To be tried again.
        Deferred => "deferred",
        /// Given up.
        Failed => "failed",
    }
}
