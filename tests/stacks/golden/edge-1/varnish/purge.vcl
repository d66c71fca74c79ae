vcl 4.1;

# Apart from the rest because it holds a secret.
sub authorize_purge {
    if (req.http.X-Purge-Token != "${secret:edge/purge}") {
        return (synth(403, "Forbidden"));
    }
}
