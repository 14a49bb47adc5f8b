#!/bin/sh
# Make a certificate authority and a certificate for the broker: make_certs.sh [NAME_OR_ADDRESS...]
# Give every name and address under which clients reach a broker; those of compose.yaml and of this machine are
# always in. The authority stays: run it again, with other names, for a new certificate. CERTS names another folder.
set -eu
cd "$(dirname "$0")"
folder=${CERTS:-certs}
umask 077
mkdir -p "$folder"

names="DNS:broker,DNS:nats-1,DNS:nats-2,DNS:nats-3,DNS:localhost,IP:127.0.0.1"
for name in "$@"; do
  case $name in
    *:*) names="$names,IP:$name" ;;
    *[!0-9.]*) names="$names,DNS:$name" ;;
    *) names="$names,IP:$name" ;;
  esac
done

if [ ! -e "$folder/ca.key" ]; then
  openssl ecparam -name prime256v1 -genkey -noout -out "$folder/ca.key"
  openssl req -x509 -new -key "$folder/ca.key" -sha256 -days 3650 -subj "/CN=twd broker authority" \
    -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign,cRLSign" \
    -out "$folder/ca.pem"
fi

openssl ecparam -name prime256v1 -genkey -noout -out "$folder/broker.key.new"
openssl req -new -key "$folder/broker.key.new" -subj "/CN=broker" -out "$folder/broker.csr"
cat > "$folder/broker.ext" << END
basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth,clientAuth
subjectAltName=$names
END
openssl x509 -req -in "$folder/broker.csr" -CA "$folder/ca.pem" -CAkey "$folder/ca.key" -CAcreateserial \
  -sha256 -days 825 -extfile "$folder/broker.ext" -out "$folder/broker.pem.new" 2> /dev/null
mv "$folder/broker.key.new" "$folder/broker.key"
mv "$folder/broker.pem.new" "$folder/broker.pem"
rm -f "$folder/broker.csr" "$folder/broker.ext"
echo "$folder: certificate for $names"
