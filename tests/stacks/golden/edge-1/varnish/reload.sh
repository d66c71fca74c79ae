# Loads the VCL under a name made of its content and lets go of the others. Run again it changes nothing.
set -eu
admin() {
    /usr/bin/varnishadm -n '/srv/wms/local/nodes/edge-1/varnish/work' -t 30 "$@"
}
name="vcl-$(cat '/srv/wms/local/nodes/edge-1/varnish/default.vcl' '/srv/wms/local/nodes/edge-1/varnish/purge.vcl' | sha256sum | cut -c 1-16)"
if ! admin vcl.list | awk '{ print $NF }' | grep -qx "$name"; then
    admin vcl.load "$name" '/srv/wms/local/nodes/edge-1/varnish/default.vcl' > /dev/null
fi
admin vcl.use "$name" > /dev/null
admin vcl.list | awk '$1 == "available" { print $NF }' | while read -r old; do
    admin vcl.discard "$old" > /dev/null
done
