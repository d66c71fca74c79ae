vcl 4.1;

import std;
import xkey;

include "/srv/wms/local/nodes/edge-1/varnish/purge.vcl";

# HAProxy on this node carries these requests to the gateways in TLS.
backend gateways {
    .path = "/srv/wms/local/nodes/edge-1/edge-tls/gateways.sock";
    .connect_timeout = 1s;
    .first_byte_timeout = 28s;
    .between_bytes_timeout = 10s;
    .probe = {
        .request =
            "GET /-/gateway HTTP/1.1"
            "Host: gateway"
            "Connection: close";
        .interval = 1.0s;
        .timeout = 1s;
        .window = 3;
        .threshold = 2;
        .initial = 2;
    }
}

sub vcl_recv {
    # Who the client is, is what PROXY says, not what the client says.
    set req.http.X-Forwarded-For = client.ip;
    unset req.http.Proxy;

    if (req.method == "PURGE") {
        unset req.http.X-Purged;
        call authorize_purge;
        unset req.http.X-Purge-Token;
        if (req.http.X-Purge-All) {
            if (!std.ban("obj.status != 0")) {
                return (synth(500, std.ban_error()));
            }
            return (synth(200, "Purged all"));
        }
        if (req.http.xkey-purge) {
            set req.http.X-Purged = xkey.purge(req.http.xkey-purge);
            return (synth(200, "Purged"));
        }
        return (purge);
    }
    unset req.http.X-Purge-Token;
    # Our own notes on the request, not the client's.
    unset req.http.X-Lookup;
    if (req.restarts == 0) {
        unset req.http.X-Failed;
    }

    if (req.url == "/-/edge") {
        return (synth(200, "OK"));
    }
    if (req.method != "GET" && req.method != "HEAD") {
        return (pass);
    }
    # The frontend's files are the same for everybody, whatever the browser sends along.
    if (req.url ~ "^/(assets|images)/") {
        unset req.http.Authorization;
        unset req.http.Cookie;
    }
    # Two variants of a picture at most, and one of a picture whose format is named.
    if (req.url ~ "^/images/") {
        if (req.url !~ "format=" && req.http.Accept ~ "(?i)(^|,)\s*image/webp\s*(;|,|$)" && req.http.Accept !~ "(?i)image/webp\s*;\s*q=0(\.0*)?\s*(,|$)") {
            set req.http.Accept = "image/webp";
        } else {
            set req.http.Accept = "image/png";
        }
    }
    # An answer to somebody in particular is nobody else's.
    if (req.http.Authorization || req.http.Cookie || req.http.X-API-Key) {
        return (pass);
    }

    # Four variants at most, however the client words its preference; a weight of 0 is a refusal.
    if (req.http.Accept-Encoding ~ "(?i)(^|,)\s*br\s*(,|$|;\s*q\s*=\s*(1|0?\.[0-9]*[1-9]))") {
        set req.http.Accept-Encoding = "br";
    } elsif (req.http.Accept-Encoding ~ "(?i)(^|,)\s*(x-)?gzip\s*(,|$|;\s*q\s*=\s*(1|0?\.[0-9]*[1-9]))") {
        set req.http.Accept-Encoding = "gzip";
    } elsif (req.http.Accept-Encoding ~ "(?i)(^|,)\s*deflate\s*(,|$|;\s*q\s*=\s*(1|0?\.[0-9]*[1-9]))") {
        set req.http.Accept-Encoding = "deflate";
    } else {
        unset req.http.Accept-Encoding;
    }
    if (std.healthy(req.backend_hint) && !req.http.X-Failed) {
        set req.grace = 60s;
    }
    set req.http.X-Lookup = "yes";
    return (hash);
}

sub vcl_purge {
    return (synth(200, "Purged"));
}

# One service stands behind, so the path is the whole name: a forged Host makes no second copy.
sub vcl_hash {
    hash_data(req.url);
    return (lookup);
}

# The second time round there was no old copy either: the failure stands.
sub vcl_miss {
    if (req.http.X-Failed) {
        return (synth(std.integer(req.http.X-Failed, 503), "No answer from the service"));
    }
}

sub vcl_backend_fetch {
    unset bereq.http.X-Lookup;
    unset bereq.http.X-Failed;
}

sub vcl_backend_response {
    # A refresh that failed must not replace what is still good enough to serve.
    if (beresp.status >= 500 && bereq.is_bgfetch) {
        return (abandon);
    }
    # Nor may the note that it failed hide it.
    if (beresp.status >= 500) {
        set beresp.ttl = 0s;
        set beresp.grace = 0s;
        set beresp.keep = 0s;
        set beresp.uncacheable = true;
        return (deliver);
    }
    # How long we keep it is for us, Cache-Control for the browser.
    if (beresp.http.Surrogate-Control ~ "max-age=[0-9]+") {
        set beresp.ttl = std.duration(regsub(beresp.http.Surrogate-Control, "^.*max-age=([0-9]+).*$", "\1") + "s", 0s);
    }
    # Row K1: 1 to 4 h, whatever a browser may keep it for.
    if (beresp.ttl > 14400s) {
        set beresp.ttl = 14400s;
    }
    if (beresp.http.Surrogate-Key) {
        set beresp.http.xkey = beresp.http.Surrogate-Key;
    }
    if (beresp.ttl > 0s && !beresp.uncacheable) {
        set beresp.grace = 3600s;
    }
    # From here on the built-in rules: private, no-store, Set-Cookie and Vary: * are not cached.
}

sub vcl_deliver {
    # An old answer is better than a failure (stale-if-error): look again, for one of any age.
    if (resp.status >= 500 && req.http.X-Lookup && !req.http.X-Failed) {
        set req.http.X-Failed = resp.status;
        return (restart);
    }
    # Keys are between the origin and the edge.
    unset resp.http.xkey;
    unset resp.http.Surrogate-Control;
    unset resp.http.Surrogate-Key;
    unset resp.http.X-Varnish;
    unset resp.http.Via;
    if (obj.hits > 0) {
        set resp.http.X-Cache = "HIT";
        set req.http.X-Lookup = "edge; hit";
    } else {
        set resp.http.X-Cache = "MISS";
        if (req.http.X-Lookup) {
            set req.http.X-Lookup = "edge; fwd=uri-miss";
        } else {
            set req.http.X-Lookup = "edge; fwd=bypass";
        }
    }
    # RFC 9211: the layers in the order that the answer passed them.
    if (resp.http.Cache-Status) {
        set resp.http.Cache-Status = resp.http.Cache-Status + ", " + req.http.X-Lookup;
    } else {
        set resp.http.Cache-Status = req.http.X-Lookup;
    }
}

sub vcl_synth {
    set resp.http.Cache-Control = "no-store";
    if (resp.status == 200) {
        set resp.http.Content-Type = "text/plain";
        if (req.method == "PURGE") {
            # So that a caller can tell our word from that of a gateway which answers in our absence.
            set resp.http.X-Edge-Purged = "yes";
            if (req.http.X-Purged) {
                set resp.http.X-Edge-Purged = req.http.X-Purged;
            }
        }
        set resp.body = {"ok
"};
        return (deliver);
    }
    if (resp.status >= 500) {
        set resp.http.Retry-After = "1";
    }
    set resp.http.Content-Type = "application/problem+json";
    set resp.body = {"{"type":"about:blank","title":""} + resp.reason + {"","status":"} + resp.status + {"}
"};
    return (deliver);
}

sub vcl_backend_error {
    set beresp.http.Cache-Control = "no-store";
    set beresp.http.Retry-After = "1";
    set beresp.http.Content-Type = "application/problem+json";
    set beresp.body = {"{"type":"about:blank","title":"Service Unavailable","status":"} + beresp.status + {"}
"};
    return (deliver);
}
