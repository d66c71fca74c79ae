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
        call authorize_purge;
        unset req.http.X-Purge-Token;
        if (req.http.xkey-purge) {
            set req.http.X-Purged = xkey.purge(req.http.xkey-purge);
            return (synth(200, "Purged"));
        }
        return (purge);
    }
    unset req.http.X-Purge-Token;

    if (req.url == "/-/edge") {
        return (synth(200, "OK"));
    }
    if (req.method != "GET" && req.method != "HEAD") {
        return (pass);
    }
    # An answer to somebody in particular is nobody else's.
    if (req.http.Authorization || req.http.Cookie || req.http.X-API-Key) {
        return (pass);
    }

    # Three variants at most, however the client words its preference.
    if (req.http.Accept-Encoding ~ "\bbr\b") {
        set req.http.Accept-Encoding = "br";
    } elsif (req.http.Accept-Encoding ~ "\bgzip\b") {
        set req.http.Accept-Encoding = "gzip";
    } else {
        unset req.http.Accept-Encoding;
    }
    if (std.healthy(req.backend_hint)) {
        set req.grace = 10s;
    }
    return (hash);
}

# One service stands behind, so the path is the whole name: a forged Host makes no second copy.
sub vcl_hash {
    hash_data(req.url);
    return (lookup);
}

sub vcl_backend_response {
    # A refresh that failed must not replace what is still good enough to serve.
    if (beresp.status >= 500 && bereq.is_bgfetch) {
        return (abandon);
    }
    if (beresp.ttl > 0s && !beresp.uncacheable) {
        set beresp.grace = 3600s;
    }
    # From here on the built-in rules: private, no-store, Set-Cookie and Vary: * are not cached.
}

sub vcl_deliver {
    # Keys are between the origin and the edge.
    unset resp.http.xkey;
    unset resp.http.X-Varnish;
    unset resp.http.Via;
    if (obj.hits > 0) {
        set resp.http.X-Cache = "HIT";
    } else {
        set resp.http.X-Cache = "MISS";
    }
}

sub vcl_synth {
    set resp.http.Cache-Control = "no-store";
    if (resp.status == 200) {
        set resp.http.Content-Type = "text/plain";
        if (req.http.X-Purged) {
            set resp.body = req.http.X-Purged + {" purged
"};
        } else {
            set resp.body = {"ok
"};
        }
        return (deliver);
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
