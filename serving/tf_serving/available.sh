# Whether models can be asked: exits 0 if each has a version that is AVAILABLE.
#   bash available.sh muse matching
# The status code of that page is 200 even when every version has ended. The
# image has no curl, but bash, in which its own entry point is written, and
# grep, which every Ubuntu has.
for model in "$@"; do
  exec 3<>"/dev/tcp/127.0.0.1/${REST_PORT:-8501}" || exit 1
  printf 'GET /v1/models/%s HTTP/1.0\r\n\r\n' "$model" >&3
  grep -q '"AVAILABLE"' <&3 || exit 1
done
